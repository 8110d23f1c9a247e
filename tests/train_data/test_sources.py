"""Documents are found and read, or the sentence says where they are broken."""

import re
from pathlib import Path

import datasets
import pytest

from headrace.errors import RequestError
from headrace.train.config import DataConfig
from headrace.train.data import sources
from headrace.train.data.sources import Source, open_source
from headrace.train.data.stdlib import stdlib_files


def opened(**settings: str) -> Source:
    return open_source(DataConfig(sequence_length=8, **settings))


def documents(source: Source) -> list[str]:
    found = [""]
    for piece in source.pieces():
        found[-1] += piece.text
        if piece.ends_document:
            found.append("")
    assert found.pop() == "", "the last document has no end"
    return found


def test_the_standard_library_is_text_in_a_fixed_order() -> None:
    files = stdlib_files(max_bytes=2_000_000)
    assert files == sorted(files) == stdlib_files(max_bytes=2_000_000)
    assert 1_900_000 < sum(file.stat().st_size for file in files) <= 2_000_000
    assert any(file.name == "argparse.py" for file in stdlib_files())
    assert not any({"test", "tests", "site-packages"} & set(file.parts) for file in stdlib_files())
    assert len(documents(opened(text="stdlib"))) == len(stdlib_files())


def test_a_file_a_folder_and_a_glob_are_documents(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt").write_text("bé\n")
    (tmp_path / "a.md").write_text("a")
    (tmp_path / "deep" / "c.txt").write_text("c")
    (tmp_path / ".hidden").write_bytes(b"\xff")
    (tmp_path / "empty.txt").write_text("")
    assert documents(opened(text=f"{tmp_path}/b.txt")) == ["bé\n"]
    assert documents(opened(text=str(tmp_path))) == ["a", "bé\n", "c"]
    assert documents(opened(text=f"{tmp_path}/**/*.txt")) == ["bé\n", "c"]


def test_a_large_file_is_one_document_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PIECE_CHARACTERS", 10)
    text = "".join(f"line {number}\n" for number in range(20))
    (tmp_path / "long.txt").write_text(text)
    pieces = list(opened(text=str(tmp_path)).pieces())
    assert len(pieces) == 10
    assert [piece.ends_document for piece in pieces] == [False] * 9 + [True]
    assert documents(opened(text=str(tmp_path))) == [text]


def test_jsonl_is_a_document_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one\\ntwo", "body": "x"}\n\n{"text": "three", "body": "y"}')
    (tmp_path / "b.jsonl").write_text('{"text": "four", "body": "z"}\n')
    assert documents(opened(jsonl=f"{tmp_path}/*.jsonl")) == ["one\ntwo", "three", "four"]
    assert documents(opened(jsonl=f"{tmp_path}/a.jsonl", field="body")) == ["x", "y"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"text": "a"', "a.jsonl line 3: broken JSON at column 13: Expecting ',' delimiter"),
        (b'{"body": "a", "id": 3}', "a.jsonl line 3: no field 'text' among body, id; set data.field to one of them"),
        (b'{"text": 5}', "a.jsonl line 3: field 'text' is a int; it must be text"),
        (b'["a"]', "a.jsonl line 3: holds no JSON object"),
        (b'{"text": "\xff"}', "a.jsonl line 3: is not UTF-8 text"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: bytes, complaint: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n\n' + line + b"\n")
    with pytest.raises(RequestError, match=re.escape(complaint)):
        documents(opened(jsonl=f"{tmp_path}/a.jsonl"))


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ntwo \xe9t\xe9\n")
    with pytest.raises(RequestError, match=r"a.txt line 2: is not UTF-8 text .*; convert it or leave it out"):
        documents(opened(text=str(tmp_path)))


@pytest.mark.parametrize("key", ["text", "jsonl"])
def test_what_is_not_there_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(RequestError, match=rf"data.{key}: .*none\* is not a file, a folder or a glob that matches"):
        opened(**{key: f"{tmp_path}/none*"})
    with pytest.raises(RequestError, match=rf"data.{key}: {tmp_path} is a folder without files"):
        opened(**{key: str(tmp_path)})


def test_a_saved_dataset_is_a_document_a_row(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": ["one", "two"], "id": [1, 2]})
    rows.save_to_disk(tmp_path / "plain")
    datasets.DatasetDict(train=rows).save_to_disk(tmp_path / "splits")
    assert documents(opened(dataset=f"{tmp_path}/plain")) == ["one", "two"]
    assert documents(opened(dataset=f"{tmp_path}/splits")) == ["one", "two"]
    assert opened(dataset=f"{tmp_path}/plain").num_bytes > 0
    with pytest.raises(RequestError, match=r"plain row 0: no field 'body' among text, id"):
        documents(opened(dataset=f"{tmp_path}/plain", field="body"))


def test_a_dataset_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"data.dataset: .*none has no train split that `datasets` can load: "):
        opened(dataset=f"{tmp_path}/none")
    rows = datasets.Dataset.from_dict({"text": ["one"]})
    datasets.DatasetDict(test=rows).save_to_disk(tmp_path / "test-only")
    with pytest.raises(RequestError, match=r"test-only has no train split"):
        opened(dataset=f"{tmp_path}/test-only")
