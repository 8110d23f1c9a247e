"""Where text comes from: files of text, JSONL, the `datasets` library."""

import glob
import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from headrace.errors import RequestError
from headrace.train.config import DataConfig
from headrace.train.data.stdlib import stdlib_files

PIECE_CHARACTERS = 1 << 20


class Piece(NamedTuple):
    """Part of a document: a file of gigabytes is never held as one string."""

    text: str
    ends_document: bool


@dataclass(frozen=True)
class Source:
    """Documents in a fixed order.

    Attributes:
        name: As it stands in the config.
        files: The files that hold it.
        pieces: Starts reading from the first document; raises RequestError, with the path and the line.
    """

    name: str
    files: tuple[Path, ...]
    pieces: Callable[[], Iterator[Piece]]

    @property
    def num_bytes(self) -> int:
        """Bytes of its files."""
        return sum(file.stat().st_size for file in self.files)


def open_source(data: DataConfig) -> Source:
    """The text, JSONL or dataset that ``data`` names.

    Raises:
        RequestError: There is no such thing.
    """
    if data.text == "stdlib":
        return _of_files("stdlib", stdlib_files(), _read_text)
    if data.text:
        return _of_files(data.text, _find(data.text, "text"), _read_text)
    if data.jsonl:
        return _of_files(data.jsonl, _find(data.jsonl, "jsonl"), lambda path: _read_jsonl(path, data.field))
    if data.dataset:
        return _of_dataset(data.dataset, data.field)
    raise ValueError("data.tokens holds no text")


def _of_files(name: str, files: list[Path], read: Callable[[Path], Iterator[Piece]]) -> Source:
    return Source(name, tuple(files), lambda: (piece for file in files for piece in read(file)))


def _find(pattern: str, key: str) -> list[Path]:
    """The files that a path, a folder or a glob names, hidden ones apart."""
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path]
    inside = path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
    skipped = len(path.parts) if path.is_dir() else 0
    files = [file for file in inside if file.is_file() and not _hidden(file.parts[skipped:])]
    if not files:
        what = "is a folder without files" if path.is_dir() else "is not a file, a folder or a glob that matches files"
        raise RequestError(f"data.{key}: {pattern} {what}; give the path of the data")
    return sorted(files)


def _hidden(parts: tuple[str, ...]) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in parts)


def _read_text(path: Path) -> Iterator[Piece]:
    """A file as one document, cut at line ends."""
    try:
        with path.open(encoding="utf-8") as file:
            lines = file.readlines(PIECE_CHARACTERS)
            while lines:
                following = file.readlines(PIECE_CHARACTERS)
                yield Piece("".join(lines), not following)
                lines = following
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None


def _read_jsonl(path: Path, field: str) -> Iterator[Piece]:
    """A document a line; blank lines are none."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield Piece(_text_of_line(line, field, f"{path} line {number}"), True)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None


def _text_of_line(line: str, field: str, where: str) -> str:
    try:
        row = json.loads(line.rstrip("\n"))
    except json.JSONDecodeError as error:
        raise RequestError(f"{where}: broken JSON at column {error.colno}: {error.msg}") from None
    if not isinstance(row, dict):
        raise RequestError(f"{where}: holds no JSON object; each line needs one, such as {{{json.dumps(field)}: …}}")
    return _text_of_row(row, field, where)


def _text_of_row(row: dict[str, object], field: str, where: str) -> str:
    if field not in row:
        raise RequestError(
            f"{where}: no field {field!r} among {', '.join(row) or 'none'}; set data.field to one of them"
        )
    text = row[field]
    if not isinstance(text, str):
        raise RequestError(f"{where}: field {field!r} is a {type(text).__name__}; it must be text")
    return text


def _not_utf8(path: Path, error: UnicodeDecodeError) -> RequestError:
    """Reading is buffered, so ``error`` does not know its line: look again."""
    with path.open("rb") as file:
        number = next((number for number, line in enumerate(file, 1) if not _is_utf8(line)), 0)
    return RequestError(f"{path} line {number}: is not UTF-8 text ({error.reason}); convert it or leave it out")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _of_dataset(name: str, field: str) -> Source:
    """The ``train`` split of a local folder or of a name on the hub."""
    datasets = importlib.import_module("datasets")  # Takes a second, few jobs need it, and it has no types.

    try:
        saved = (Path(name) / "state.json").is_file() or (Path(name) / "dataset_dict.json").is_file()
        loaded = datasets.load_from_disk(name) if saved else datasets.load_dataset(name)
        rows = loaded["train"] if isinstance(loaded, dict) else loaded
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().split("\n")[0]
        raise RequestError(f"data.dataset: {name} has no train split that `datasets` can load: {reason}") from None

    def pieces() -> Iterator[Piece]:
        for number, row in enumerate(rows):
            yield Piece(_text_of_row(row, field, f"{name} row {number}"), True)

    return Source(name, tuple(Path(file["filename"]) for file in rows.cache_files), pieces)
