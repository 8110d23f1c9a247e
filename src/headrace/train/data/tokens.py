"""Data to token ids, once: into a cache folder named by what they came from."""

import hashlib
import json
import tempfile
from pathlib import Path

from headrace.errors import RequestError
from headrace.train.config import DEFAULT_VOCAB_SIZE, Config
from headrace.train.data.from_text import prepare_text
from headrace.train.data.from_tokens import prepare_tokens
from headrace.train.data.prepared import Prepared
from headrace.train.data.progress import Progress, silent
from headrace.train.data.sources import Source, open_source
from headrace.train.data.tokenizer import load_tokenizer


def prepare(config: Config, cache: Path, vocab_size: int | None = None, progress: Progress = silent) -> Prepared:
    """Token ids of the data in ``config``, made now or found in ``cache``.

    One process of a machine calls this, the others `Prepared.load` its folder. A folder appears whole or not at all.

    Args:
        config: Its `data` and `model` decide.
        cache: Folder of prepared data, one subfolder for each source, tokenizer and vocabulary.
        vocab_size: Rows of the model's embedding; None: as `vocab_size_of` says.
        progress: Told how far long work is.

    Raises:
        RequestError: The data is missing, empty or broken (with file and line), does not fit the model's vocabulary,
            is shorter than one sequence, or cannot be written.
    """
    rows = vocab_size or vocab_size_of(config)
    source = None if config.data.tokens else open_source(config.data)
    folder = cache / _digest(config, source, rows)
    try:
        if not folder.exists():
            _make(config, source, rows, folder, progress)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RequestError(f"{cache} cannot be written: {reason}; make room there or choose another folder") from None
    prepared = Prepared.load(folder)
    _check(prepared, config.data.sequence_length, config.data.validation_sequences)
    return prepared


def vocab_size_of(config: Config) -> int:
    """Tokens that the model must know, found before the data is read.

    Raises:
        RequestError: Only the model can say, or the tokenizer cannot be loaded.
    """
    said = (config.model.config or {}).get("vocab_size") or config.data.vocab_size
    if said is not None:
        return int(said)
    if config.data.tokens:
        raise RequestError("data.tokens needs the size of the vocabulary; set data.vocab_size")
    tokenizer = config.data.tokenizer or config.model.path
    return len(load_tokenizer(tokenizer)) if tokenizer else DEFAULT_VOCAB_SIZE


def _digest(config: Config, source: Source | None, rows: int) -> str:
    """Names the data without reading it: files by path, size and time of change."""
    data = config.data
    files = list(source.files) if source else [Path(data.tokens or "")]
    tokenizer = data.tokenizer or config.model.path
    if tokenizer and Path(tokenizer).is_dir():
        files += sorted(Path(tokenizer).iterdir())
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    settings = data.model_dump(exclude={"sequence_length", "seed", "validation_sequences"})
    return hashlib.sha256(json.dumps([settings, tokenizer, rows, stats]).encode()).hexdigest()[:16]


def _make(config: Config, source: Source | None, rows: int, folder: Path, progress: Progress) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=folder.parent) as unfinished:
        whole = Path(unfinished) / "whole"
        whole.mkdir()
        if source:
            prepared = prepare_text(config, source, rows, whole, progress)
        else:
            prepared = prepare_tokens(config, rows, whole, progress)
        prepared.save()
        if not folder.exists():
            whole.rename(folder)


def _check(prepared: Prepared, sequence_length: int, num_held_out: int) -> None:
    if prepared.largest_token >= prepared.vocab_size:
        raise RequestError(
            f"the data holds token {prepared.largest_token}, but the model knows {prepared.vocab_size} tokens; "
            f"set model.config.vocab_size to {prepared.largest_token + 1} or more, or change data.tokenizer"
        )
    if prepared.num_tokens < sequence_length:
        raise RequestError(
            f"the data has {prepared.num_tokens} tokens, fewer than one sequence of {sequence_length}; "
            f"give more data, or set data.sequence_length to {prepared.num_tokens} or less"
        )
    if num_held_out >= (total := prepared.num_tokens // sequence_length):
        raise RequestError(
            f"data.validation_sequences is {num_held_out}, but the data has {total} sequences of {sequence_length}, "
            f"and some must be left to learn; set it to less than {total}"
        )
