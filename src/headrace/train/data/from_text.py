"""Documents to token ids, with the end of text after each."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headrace.errors import RequestError
from headrace.train.config import Config
from headrace.train.data.prepared import Prepared, Tally
from headrace.train.data.progress import Progress
from headrace.train.data.sources import Piece, Source
from headrace.train.data.tokenizer import encode, load_tokenizer, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_GROUP_CHARACTERS = 1 << 20


def prepare_text(config: Config, source: Source, rows: int, folder: Path, progress: Progress) -> Prepared:
    """Write `tokens.bin` and `tokenizer/` into ``folder``.

    Args:
        config: Names the tokenizer, or none.
        source: The documents.
        rows: Of the model's embedding.
        folder: An empty one.
        progress: Told the bytes that are done.

    Raises:
        RequestError: The source or the tokenizer is broken, or there is no text.
    """
    name = config.data.tokenizer or config.model.path
    if name:
        tokenizer = load_tokenizer(name)
    else:
        pieces = _watched(source, progress, "training the tokenizer")
        tokenizer = train_tokenizer((piece.text for piece in pieces), rows)
    tokenizer.save_pretrained(folder / "tokenizer")
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
    tally = Tally()
    with (folder / "tokens.bin").open("wb") as out:
        for ids in _token_ids(tokenizer, _watched(source, progress, "turning text into tokens")):
            tokens = np.array(ids, dtype)
            tally.add(tokens)
            out.write(tokens.tobytes())
    if not tally.num_tokens:
        raise RequestError(f"{source.name} is empty; give data with text in it")
    return tally.prepared(folder, folder / "tokens.bin", dtype, 0, rows)


def _watched(source: Source, progress: Progress, what: str) -> Iterator[Piece]:
    done, total = 0, source.num_bytes
    for piece in source.pieces():
        yield piece
        done += len(piece.text.encode("utf-8", "replace"))
        progress(min(done, total), total, what)
    progress(total, total, what)


def _token_ids(tokenizer: "PreTrainedTokenizerBase", pieces: Iterable[Piece]) -> Iterator[list[int]]:
    """Groups of pieces are encoded together, for that runs in parallel."""
    for group in _groups(pieces):
        ids = encode(tokenizer, [piece.text for piece in group])
        end = [tokenizer.eos_token_id]
        yield [
            token
            for piece, piece_ids in zip(group, ids, strict=True)
            for token in (piece_ids + end if piece.ends_document else piece_ids)
        ]


def _groups(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    group: list[Piece] = []
    num_characters = 0
    for piece in pieces:
        group.append(piece)
        num_characters += len(piece.text)
        if num_characters >= _GROUP_CHARACTERS:
            yield group
            group, num_characters = [], 0
    if group:
        yield group
