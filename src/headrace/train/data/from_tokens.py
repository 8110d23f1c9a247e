"""Token ids that the user has already."""

from pathlib import Path
from typing import Any

import numpy as np

from headrace.errors import RequestError
from headrace.train.config import Config
from headrace.train.data.prepared import Prepared, Tally
from headrace.train.data.progress import Progress
from headrace.train.data.tokenizer import load_tokenizer

_BLOCK_TOKENS = 1 << 24


def prepare_tokens(config: Config, rows: int, folder: Path, progress: Progress) -> Prepared:
    """Look through the file of `data.tokens`; it stays where it is, for it may be large.

    Args:
        config: Names the file, and the tokenizer that goes into ``folder`` when there is one.
        rows: Of the model's embedding.
        folder: An empty one.
        progress: Told the tokens that are done.

    Raises:
        RequestError: The file is missing or empty or holds something else than token ids.
    """
    path = Path(config.data.tokens or "").expanduser()
    if config.data.tokenizer:
        load_tokenizer(config.data.tokenizer).save_pretrained(folder / "tokenizer")
    tokens = _open(path, rows)
    tally = Tally()
    for start in range(0, len(tokens), _BLOCK_TOKENS):
        block = tokens[start : start + _BLOCK_TOKENS]
        if (smallest := int(block.min())) < 0:
            raise RequestError(f"{path} holds the token id {smallest}; token ids are 0 or more")
        tally.add(block)
        progress(tally.num_tokens, len(tokens), "looking through the tokens")
    return tally.prepared(folder, path.resolve(), tokens.dtype, tokens.offset, rows)


def _open(path: Path, vocab_size: int) -> "np.memmap[tuple[int], np.dtype[Any]]":
    """The ids, 1-D and not empty, still on disk."""
    try:
        raw_dtype = np.uint16 if vocab_size <= 1 << 16 else np.uint32
        tokens: np.memmap[tuple[int], np.dtype[Any]]
        tokens = np.load(path, mmap_mode="r") if path.suffix == ".npy" else np.memmap(path, raw_dtype, "r")
    except OSError as error:
        raise RequestError(f"data.tokens: {path} cannot be read: {error.strerror}; give a file of token ids") from None
    except (ValueError, EOFError) as error:
        raise RequestError(f"data.tokens: {path} is broken: {error}; give a file of token ids") from None
    if tokens.size == 0:
        raise RequestError(f"data.tokens: {path} is empty; give a file of token ids")
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise RequestError(
            f"data.tokens: {path} has shape {list(tokens.shape)} and type {tokens.dtype}; it must be a row of integers"
        )
    return tokens
