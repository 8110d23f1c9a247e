"""Token ids are made once, whole or not at all, and every sequence of them can be found again."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from headrace.errors import RequestError
from headrace.train.config import Config, DataConfig, ModelConfig, TrainConfig
from headrace.train.data import Prepared, TokenData, prepare, vocab_size_of
from headrace.train.data.tokenizer import encode, train_tokenizer

TEXTS = ["the cat sat on the mat\n" * 30, "a dog ate the cat\n" * 30, "<|endoftext|> is a word here"]


def job(model: dict[str, Any] | str | None = None, **data: Any) -> Config:
    model_config = (
        ModelConfig(path=model)
        if isinstance(model, str)
        else ModelConfig(config={"model_type": "llama", **(model or {})})
    )
    return Config(
        model=model_config,
        data=DataConfig(**{"sequence_length": 8, **data}),
        train=TrainConfig(steps=1, batch=1),
    )


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, text in enumerate(TEXTS):
        (folder / f"{number}.txt").write_text(text)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_tokens_are_the_documents_with_an_end_after_each(texts: Path, tmp_path: Path) -> None:
    prepared = prepare(job(text=str(texts), vocab_size=280), tmp_path / "cache")
    tokenizer = AutoTokenizer.from_pretrained(prepared.tokenizer_folder)
    tokens = prepared.tokens().tolist()
    assert tokenizer.decode(tokens) == "".join(text + "<|endoftext|>" for text in TEXTS)
    assert tokens.count(tokenizer.eos_token_id) == len(TEXTS)
    assert (prepared.num_tokens, prepared.largest_token, prepared.vocab_size) == (len(tokens), max(tokens), 280)


def test_equal_text_gives_equal_bytes(texts: Path, tmp_path: Path) -> None:
    first = prepare(job(text=str(texts)), tmp_path / "one")
    second = prepare(job(text=str(texts)), tmp_path / "two")
    assert contents(first.folder) == contents(second.folder)
    assert first.sha256 == second.sha256


def test_what_was_prepared_is_used_again(texts: Path, tmp_path: Path) -> None:
    work: list[str] = []
    config = job(text=str(texts))
    first = prepare(config, tmp_path / "cache", progress=lambda done, total, what: work.append(what))
    assert list(dict.fromkeys(work)) == ["training the tokenizer", "turning text into tokens"]
    work.clear()
    assert prepare(config, tmp_path / "cache", progress=lambda done, total, what: work.append(what)) == first
    assert Prepared.load(first.folder) == first
    assert not work
    assert os.listdir(tmp_path / "cache") == [first.folder.name]


def test_a_change_of_text_or_settings_is_prepared_anew(texts: Path, tmp_path: Path) -> None:
    folders = [
        prepare(job(text=str(texts)), tmp_path / "cache").folder,
        prepare(job(text=str(texts), vocab_size=300), tmp_path / "cache").folder,
    ]
    (texts / "0.txt").write_text("something else, and long enough for a sequence")
    folders.append(prepare(job(text=str(texts)), tmp_path / "cache").folder)
    assert len(set(folders)) == 3


def test_progress_ends_at_its_total(texts: Path, tmp_path: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}
    prepare(job(text=str(texts)), tmp_path, progress=lambda done, total, what: seen.update({what: (done, total)}))
    assert set(seen.values()) == {(sum(map(len, TEXTS)),) * 2}


def test_nothing_is_left_of_work_that_failed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": ')
    with pytest.raises(RequestError, match=r"a.jsonl line 2: broken JSON"):
        prepare(job(jsonl=f"{tmp_path}/a.jsonl"), tmp_path / "cache")
    assert os.listdir(tmp_path / "cache") == []


def test_batches_are_windows_of_the_tokens_in_the_order_of_the_cursor(texts: Path, tmp_path: Path) -> None:
    prepared = prepare(job(text=str(texts), vocab_size=280), tmp_path)
    data = TokenData(prepared.folder, 8, seed=3)
    assert data.num_windows == prepared.num_tokens // 8
    epoch = data.batch(0, data.num_windows)
    assert epoch.dtype == np.int64
    assert type(epoch) is np.ndarray
    windows = prepared.tokens()[: data.num_windows * 8].reshape(-1, 8)
    assert sorted(epoch.tolist()) == sorted(windows.tolist())
    eight = np.concatenate([data.batch(5, 3), data.batch(8, 5)])
    assert np.array_equal(eight, data.batch(5, 8))
    assert not np.array_equal(data.batch(0, 20), TokenData(prepared.folder, 8, seed=4).batch(0, 20))


@pytest.mark.parametrize("held_out", [1, 7, 50])
def test_held_out_windows_are_spread_over_the_data_and_no_epoch_visits_them(
    texts: Path, tmp_path: Path, held_out: int
) -> None:
    np.arange(803, dtype=np.int64).tofile(tmp_path / "tokens.bin")  # Each window of 8 begins with its own number.
    prepared = Prepared(tmp_path, tmp_path / "tokens.bin", "<i8", 0, 803, 799, 800, "")
    prepared.save()
    data, other = (TokenData(tmp_path, 8, seed, held_out) for seed in (3, 4))
    kept = np.concatenate([data.held_out(first, 4) for first in range(0, held_out, 4)])[:, 0] // 8
    gaps = np.diff(np.concatenate([[-1], kept, [100]]))
    assert gaps.min() >= 100 // held_out // 2
    assert gaps.max() <= -(-100 // held_out)
    assert kept.tolist() == (other.held_out(0, held_out)[:, 0] // 8).tolist()
    assert data.num_windows == 100 - held_out
    for each in (data, other):
        learnt = each.batch(0, each.num_windows)[:, 0] // 8
        assert sorted([*learnt, *kept]) == list(range(100))


def test_too_many_held_out_are_refused(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match=r"validation_sequences is 500, but the data has \d+ sequences of 8, and some"
    ):
        prepare(job(text=str(texts), validation_sequences=500), tmp_path / "cache")


def test_holding_out_more_takes_the_same_prepared_data(texts: Path, tmp_path: Path) -> None:
    folders = {prepare(job(text=str(texts), validation_sequences=n), tmp_path / "cache").folder for n in (0, 3)}
    assert len(folders) == 1


def test_empty_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(RequestError, match=r"a.txt is empty; give data with text in it"):
        prepare(job(text=f"{tmp_path}/a.txt"), tmp_path / "cache")


def test_less_than_a_sequence_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x y z")
    with pytest.raises(RequestError, match=r"the data has 4 tokens, fewer than one sequence of 8; .* to 4 or less"):
        prepare(job(text=f"{tmp_path}/a.txt"), tmp_path / "cache")


def test_a_vocabulary_below_the_bytes_is_refused(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"a vocabulary of 97 tokens cannot be trained, .* are 257; set"):
        prepare(job({"vocab_size": 97}, text=str(texts)), tmp_path / "cache")


def test_a_folder_that_cannot_be_written_is_named(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(RequestError, match=r"cache cannot be written: .*; make room there or choose another folder"):
        prepare(job(text=str(texts)), tmp_path / "cache")


def test_an_existing_tokenizer_is_taken_and_kept_beside_the_tokens(texts: Path, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["some other text, some other words"], 270)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    config = job(text=str(texts), tokenizer=str(tmp_path / "tokenizer"))
    assert vocab_size_of(config) == 270
    prepared = prepare(config, tmp_path / "cache")
    expected = [token for ids in encode(tokenizer, TEXTS) for token in [*ids, tokenizer.eos_token_id]]
    assert prepared.tokens().tolist() == expected
    assert AutoTokenizer.from_pretrained(prepared.tokenizer_folder).get_vocab() == tokenizer.get_vocab()
    of_model = prepare(job(str(tmp_path / "tokenizer"), text=str(texts)), tmp_path / "cache2")
    assert of_model.sha256 == prepared.sha256


def test_a_tokenizer_that_the_model_does_not_know_is_refused(texts: Path, tmp_path: Path) -> None:
    train_tokenizer(TEXTS, 290).save_pretrained(tmp_path / "tokenizer")
    config = job({"vocab_size": 260}, text=str(texts), tokenizer=str(tmp_path / "tokenizer"))
    with pytest.raises(
        RequestError, match=r"the data holds token \d+, but the model knows 260 tokens; set model.config"
    ):
        prepare(config, tmp_path / "cache")


def test_a_folder_without_a_tokenizer_is_refused(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match=r"texts has no tokenizer that transformers can load: .*; set data.tokenizer"
    ):
        prepare(job(text=str(texts), tokenizer=str(texts)), tmp_path / "cache", 300)


def test_a_tokenizer_without_an_end_of_text_is_refused(texts: Path, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 270)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(RequestError, match=r"the tokenizer of .* has no end-of-text token"):
        prepare(job(text=str(texts), tokenizer=str(tmp_path / "tokenizer")), tmp_path / "cache", 300)


def test_ready_tokens_are_used_where_they_lie(tmp_path: Path) -> None:
    ids = np.arange(50, dtype=np.int32) % 7
    np.save(tmp_path / "a.npy", ids)
    ids.astype(np.uint16).tofile(tmp_path / "a.bin")
    for name in ("a.npy", "a.bin"):
        prepared = prepare(job({"vocab_size": 97}, tokens=f"{tmp_path}/{name}"), tmp_path / "cache")
        assert prepared.tokens().tolist() == ids.tolist()
        assert (prepared.file, prepared.tokenizer_folder) == (tmp_path / name, None)
        assert json.loads((prepared.folder / "meta.json").read_text())["num_tokens"] == 50
        assert [file.name for file in prepared.folder.iterdir()] == ["meta.json"]


def test_raw_ids_of_a_large_vocabulary_have_four_bytes(tmp_path: Path) -> None:
    np.arange(66_000, 66_020, dtype=np.uint32).tofile(tmp_path / "a.bin")
    prepared = prepare(job({"vocab_size": 70_000}, tokens=f"{tmp_path}/a.bin"), tmp_path / "cache")
    assert prepared.tokens().tolist() == list(range(66_000, 66_020))


@pytest.mark.parametrize(
    ("ids", "complaint"),
    [
        (np.zeros((2, 3), int), r"a.npy has shape \[2, 3\] and type int64; it must be a row of integers"),
        (np.zeros(9), r"a.npy has shape \[9\] and type float64; it must be a row of integers"),
        (np.full(9, -4), r"a.npy holds the token id -4; token ids are 0 or more"),
        (np.full(9, 97), r"the data holds token 97, but the model knows 97 tokens; set model.config.vocab_size to 98"),
        (np.zeros(0, int), r"a.npy is empty; give a file of token ids"),
    ],
)
def test_tokens_that_are_none_are_refused(tmp_path: Path, ids: Any, complaint: str) -> None:
    np.save(tmp_path / "a.npy", ids)
    with pytest.raises(RequestError, match=complaint):
        prepare(job({"vocab_size": 97}, tokens=f"{tmp_path}/a.npy"), tmp_path / "cache")


def test_token_files_that_are_broken_or_missing_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_text("not numpy")
    (tmp_path / "odd.bin").write_bytes(b"123")
    for name, complaint in [
        ("a.npy", "is broken"),
        ("odd.bin", "is broken"),
        ("none.npy", "cannot be read: No such file"),
        ("none.bin", "cannot be read: No such file"),
    ]:
        with pytest.raises(RequestError, match=f"{name} {complaint}"):
            prepare(job({"vocab_size": 97}, tokens=f"{tmp_path}/{name}"), tmp_path / "cache")


def test_tokens_that_vanish_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(20, int))
    prepared = prepare(job({"vocab_size": 97}, tokens=f"{tmp_path}/a.npy"), tmp_path / "cache")
    (tmp_path / "a.npy").unlink()
    with pytest.raises(RequestError, match=r"a.npy is gone, on which .* rests"):
        TokenData(prepared.folder, 8, 0)
    with pytest.raises(RequestError, match=r"none holds no prepared data"):
        TokenData(tmp_path / "none", 8, 0)


def test_the_vocabulary_is_known_before_the_data_is_read() -> None:
    assert vocab_size_of(job(text="none")) == 4096
    assert vocab_size_of(job(text="none", vocab_size=300)) == 300
    assert vocab_size_of(job({"vocab_size": 97}, tokens="none")) == 97
    with pytest.raises(RequestError, match=r"data.tokens needs the size of the vocabulary; set data.vocab_size"):
        vocab_size_of(job(tokens="none"))
