"""Which parameters do not learn."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from headrace.errors import RequestError


def frozen_names(patterns: Sequence[str], names: Sequence[str], tied: Iterable[tuple[str, str]]) -> frozenset[str]:
    """The names of parameters that ``patterns`` freeze.

    Args:
        patterns: Each a parameter's global name, or the name of a module that holds it; ``*`` stands for anything.
        names: Of all parameters.
        tied: Pairs ``(copy, owner)`` of global names that are one parameter.

    Raises:
        RequestError: A pattern matches nothing (names the nearest), or nothing is left to learn.
    """
    owner_of = {name: name for name in names} | dict(tied)
    frozen: set[str] = set()
    for pattern in patterns:
        found = {owner for name, owner in owner_of.items() if any(fnmatchcase(part, pattern) for part in _parts(name))}
        if not found:
            known = list(dict.fromkeys(part for name in owner_of for part in _parts(name)))
            near = get_close_matches(pattern, known, n=1, cutoff=0.0)[0]
            raise RequestError(f"train.freeze: no parameter is named {pattern}; the nearest name is {near}")
        frozen |= found
    if len(frozen) == len(names):
        raise RequestError(
            f"train.freeze: {', '.join(patterns)} freezes all {len(names)} parameters; leave some to learn"
        )
    return frozenset(frozen)


def _parts(name: str) -> list[str]:
    """The parameter's name and those of the modules around it."""
    words = name.split(".")
    return [".".join(words[:count]) for count in range(1, len(words) + 1)]
