"""What the scripts that make pages share."""

from collections.abc import Iterable
from pathlib import Path

DOCS = Path(__file__).parent


def save(pages: dict[str, str]) -> None:
    """Writes pages.

    Args:
        pages: Text of each, by its path below ``docs/``.
    """
    for name, text in pages.items():
        path = DOCS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; a ``|`` inside a cell is escaped."""
    head = list(head)
    lines = [head, ["---"] * len(head), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def note(module: str) -> str:
    """The line at the top of a page that says how it was made."""
    return f"<!-- Made by `python -m {module}`; change the code, then run that. -->\n\n"
