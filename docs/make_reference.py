"""Makes the references of commands and of configuration: ``python -m docs.make_reference``."""

import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer

from docs.made import DOCS, note, save, table
from headrace.cli import app
from headrace.train.config import Config, known_keys

WORDS = {str: "TEXT", int: "INTEGER", float: "NUMBER", Path: "PATH"}
QUICKSTART = DOCS.parent / "examples/quickstart.yaml"


def pages() -> dict[str, str]:
    """Both pages."""
    return {"commands.md": commands_page(), "configuration.md": configuration_page()}


def verbs() -> dict[str, Any]:
    """Every verb of the command line, as its click command."""
    return dict(getattr(typer.main.get_command(app), "commands"))  # noqa: B009 (typer's own type hides it)


def commands_page() -> str:
    """Every verb with its help, arguments, options and an example."""
    text = note("docs.make_reference") + "# Commands\n\n"
    text += (
        "A verb that answers with figures takes `--json`, and then prints one "
        "JSON object on standard output and nothing else there. An error is one sentence on standard error: exit 2 for "
        "a request that cannot be met (nothing was started), 1 for a run that failed.\n\n"
    )
    text += table(("verb", "does"), ((f"[`{name}`](#{name})", verb.help) for name, verb in verbs().items()))
    return text + "".join(_verb(name, verb) for name, verb in verbs().items())


def _verb(name: str, verb: Any) -> str:
    arguments = [each for each in verb.params if each.param_type_name == "argument"]
    options = [each for each in verb.params if each.param_type_name == "option"]
    usage = " ".join(["headrace", name, *map(_asked, arguments), *(["[OPTIONS]"] if options else [])])
    rows = [(f"`{each.metavar}`", each.help, "") for each in arguments]
    hints = _hints(name)
    rows += [(f"`{_spelling(each, hints[each.name])}`", each.help, _default(each.default)) for each in options]
    head = f"\n## {name}\n\n{verb.help}\n\n```\n{usage}\n```\n\n"
    return head + table(("", "what", "default"), rows) + f"\n```bash\n{example(verb)}\n```\n"


def _asked(argument: Any) -> str:
    return f"[{argument.metavar} ...]" if argument.nargs == -1 else str(argument.metavar)


def _hints(name: str) -> dict[str, Any]:
    """Types of a verb's parameters, without their ``| None``."""
    function = next(each.callback for each in app.registered_commands if (each.name or each.callback.__name__) == name)
    hints = get_type_hints(function)
    return {key: next((arg for arg in get_args(hint) if arg is not type(None)), hint) for key, hint in hints.items()}


def _spelling(option: Any, hint: Any) -> str:
    return " / ".join(option.opts) + ("" if option.is_flag else f" {WORDS[hint]}")


def example(verb: Any) -> str:
    """The command of a verb's epilogue ``Example: …``."""
    return str(verb.epilog or "").removeprefix("Example: ")


def _default(value: Any) -> str:
    return "" if value in (None, False) else f"`{value}`"


def configuration_page() -> str:
    """Every key of a job's file with type, default and meaning, section by section."""
    text = note("docs.make_reference") + "# Configuration\n\n"
    text += (
        "A job is one YAML file. Each key can also be given on the command line as `section.key=value`, which wins. "
        "An unknown key is an error that names the nearest known one. "
        f"A whole file, `examples/quickstart.yaml`:\n\n```yaml\n{QUICKSTART.read_text()}```\n"
    )
    schema = Config.model_json_schema()
    plain = []
    for name, field in schema["properties"].items():
        section = _section(field)
        if section is None:
            plain.append(_row(name, field, name in schema["required"]))
            continue
        found = schema["$defs"][section]
        required = found.get("required", [])
        rows = [_row(f"{name}.{key}", inner, key in required) for key, inner in found["properties"].items()]
        text += f"\n## {name}\n\n{_code(found['description'])}\n\n" + table(("key", "type", "default", "what"), rows)
    return text + "\n## Without a section\n\n" + table(("key", "type", "default", "what"), plain)


def _section(field: dict[str, Any]) -> str | None:
    """The name of the section that a top-level key holds, or None where it is a plain value."""
    return field["$ref"].rpartition("/")[2] if "$ref" in field else None


def _row(key: str, field: dict[str, Any], required: bool) -> tuple[str, str, str, str]:
    default = "required" if required else f"`{_yaml(field.get('default'))}`"
    return f"`{key}`", type_words(field), default, _code(" ".join(known_keys()[key].split()))


def type_words(field: dict[str, Any]) -> str:
    """A JSON schema in words, such as ``integer ≥ 1``; that null is allowed goes without saying."""
    if "anyOf" in field:
        return " or ".join(type_words(each) for each in field["anyOf"] if each.get("type") != "null")
    if "const" in field or "enum" in field:
        return " or ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        items = field.get("prefixItems") or [field["items"]]
        return f"list of {type_words(items[0]).replace(items[0]['type'], items[0]['type'] + 's')}" + (
            f", {len(items)} of them" if "prefixItems" in field else ""
        )
    words = {"object": "mapping", "boolean": "true or false"}.get(field["type"], field["type"])
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {_power(field[name])}" for name, sign in signs.items() if name in field]
    return f"{words} {', '.join(limits)}".strip()


def _power(value: float) -> str:
    return f"2^{value.bit_length() - 1}" if isinstance(value, int) and value > 2**32 else f"{value:g}"


def _yaml(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _code(text: str) -> str:
    """Docstrings quote code twice, Markdown once."""
    return re.sub("``", "`", text)


if __name__ == "__main__":
    save(pages())
