"""Token ids on disk, and what is known about them."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.errors import RequestError


@dataclass(frozen=True)
class Prepared:
    """Data that is ready for training.

    Attributes:
        folder: Holds `meta.json`, and unless the data came as tokens `tokens.bin` and `tokenizer/`.
        file: The file of token ids, a flat array.
        dtype: Its numpy type.
        offset_bytes: Where the array begins in it.
        num_tokens: Its length.
        largest_token: The largest id in it.
        vocab_size: Tokens that the model must know.
        sha256: Of the ids; equal data has an equal one on every machine.
    """

    folder: Path
    file: Path
    dtype: str
    offset_bytes: int
    num_tokens: int
    largest_token: int
    vocab_size: int
    sha256: str

    @property
    def tokenizer_folder(self) -> Path | None:
        """A folder for transformers' ``AutoTokenizer``, None where the data came as tokens without one."""
        tokenizer = self.folder / "tokenizer"
        return tokenizer if tokenizer.is_dir() else None

    def tokens(self) -> NDArray[Any]:
        """The ids, read from disk as they are used, shape [num_tokens]."""
        if not self.file.is_file():
            raise RequestError(f"{self.file} is gone, on which {self.folder} rests; put it back or give other data")
        return np.memmap(self.file, np.dtype(self.dtype), "r", self.offset_bytes, (self.num_tokens,))

    def save(self) -> None:
        """Write `meta.json`; a file in the folder is named without it, for the folder moves when it is whole."""
        inside = self.file.is_relative_to(self.folder)
        file = self.file.relative_to(self.folder) if inside else self.file
        fields = {**asdict(self), "file": str(file)}
        del fields["folder"]
        (self.folder / "meta.json").write_text(json.dumps(fields, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Prepared":
        """Read what `save` wrote.

        Raises:
            RequestError: There is no prepared data in ``folder``.
        """
        try:
            fields = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            raise RequestError(f"{folder} holds no prepared data; remove it, and it is made again") from None
        return cls(folder=folder, **{**fields, "file": folder / fields["file"]})


class Tally:
    """What `Prepared` says of the ids, gathered block by block."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self.largest_token = 0
        self._sha256 = hashlib.sha256()

    def add(self, tokens: NDArray[Any]) -> None:
        """Count the next ids, shape [n] with n > 0."""
        self.num_tokens += len(tokens)
        self.largest_token = max(self.largest_token, int(tokens.max()))
        self._sha256.update(tokens.astype("<u4").tobytes())

    def prepared(
        self, folder: Path, file: Path, dtype: "np.dtype[Any]", offset_bytes: int, vocab_size: int
    ) -> Prepared:
        """The result, for ids of ``dtype`` that lie in ``file`` from ``offset_bytes`` on."""
        return Prepared(
            folder=folder,
            file=file,
            dtype=dtype.str,
            offset_bytes=offset_bytes,
            num_tokens=self.num_tokens,
            largest_token=self.largest_token,
            vocab_size=vocab_size,
            sha256=self._sha256.hexdigest(),
        )
