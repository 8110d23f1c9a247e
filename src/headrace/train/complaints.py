"""What pydantic found wrong with a config, as one sentence for a person."""

import json
from difflib import get_close_matches

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from headrace.errors import RequestError


def sentence(error: ValidationError, path: str, overrides: list[str], known: dict[str, str]) -> RequestError:
    """The first fault; a misspelt key comes before the key that is missing because of it.

    Args:
        error: What pydantic raised.
        path: The file.
        overrides: ``section.key=value`` each.
        known: Every allowed key with its documentation.
    """
    first = min(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    source = next((f"override {text!r}" for text in reversed(overrides) if _touches(text, key)), path)
    return RequestError(f"{source}: {_explain(first, key, known)}")


def _touches(override: str, key: str) -> bool:
    """Whether the override set ``key``, a part of it, or something that holds it."""
    ours, theirs = override.partition("=")[0] + ".", key + "."
    return ours.startswith(theirs) or theirs.startswith(ours)


def _explain(fault: ErrorDetails, key: str, known: dict[str, str]) -> str:
    value = json.dumps(fault["input"], default=str)
    message = fault["msg"].replace("Input should be", "it must be", 1)
    match fault["type"]:
        case "extra_forbidden":
            return f"unknown key {key}; {_nearest(key, known)}"
        case "missing":
            return f"{key} is missing; it says: {known[key]}"
        case "model_type":
            return f"{key} is {value}; it must hold `key: value` pairs"
        case "value_error":
            return message.removeprefix("Value error, ")
    return f"{key} is {value}; {message[0].lower()}{message[1:]}"


def _nearest(key: str, known: dict[str, str]) -> str:
    """The key that was meant: one of the same section, or else one of any section."""
    section, _, name = key.rpartition(".")
    siblings = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == section}
    others = {other.rpartition(".")[2]: other for other in known}
    for candidates in (siblings, others):
        if close := get_close_matches(name, candidates, n=1):
            return f"the nearest known key is {candidates[close[0]]}"
    return f"known here are {', '.join(siblings.values())}"
