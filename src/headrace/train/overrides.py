"""Reading YAML strictly, and setting single keys of it from the command line."""

import re
from pathlib import Path
from typing import Any

import yaml

from headrace.errors import RequestError


class _StrictLoader(yaml.SafeLoader):
    """YAML in which ``3e-4`` is a number, as in Python, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for position, (key, _) in enumerate(node.value):
            if key.value in names[:position]:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file (or JSON, which is YAML).

    Raises:
        RequestError: The file is missing, is not text, is broken (with the line) or holds no mapping.
    """
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}; give the path of a config file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}{_what_is_broken(error)}") from None
    if not isinstance(value, dict):
        raise RequestError(f"{path} holds no `key: value` pairs; it needs some, such as `train:` with `steps: 100`")
    return value


def apply_override(data: dict[str, Any], override: str) -> dict[str, Any]:
    """``data`` with ``section.key=value`` set; sections that are not there are made.

    Raises:
        RequestError: There is no ``=``, or the value is not YAML.
    """
    key, equals, text = override.partition("=")
    if not (equals and all(key.split("."))):
        raise RequestError(f"override {override!r} is not of the form section.key=value, such as train.steps=100")
    try:
        value = yaml.load(text, _StrictLoader)
    except yaml.YAMLError as error:
        raise RequestError(f"override {override!r}{_what_is_broken(error)}") from None
    return _with_value(data, key.split("."), value)


def expand_shorthands(data: dict[str, Any]) -> dict[str, Any]:
    """``model: folder``, ``model: {config: file}`` and ``parallel: auto`` in their long forms.

    Raises:
        RequestError: The file of a model's config cannot be read.
    """
    long = dict(data)
    model = data.get("model")
    if isinstance(model, str):
        long["model"] = {"path": model}
    if isinstance(model, dict) and isinstance(model.get("config"), str):
        long["model"] = {**model, "config": read_mapping(Path(model["config"]))}
    if data.get("parallel") == "auto":
        long["parallel"] = {}
    return long


def _with_value(data: dict[str, Any], keys: list[str], value: object) -> dict[str, Any]:
    if len(keys) == 1:
        return {**data, keys[0]: value}
    inner = data.get(keys[0])
    return {**data, keys[0]: _with_value(inner if isinstance(inner, dict) else {}, keys[1:], value)}


def _what_is_broken(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f" line {error.problem_mark.line + 1}: {error.problem}"
    return f" is not YAML: {error}"
