"""Text to token ids: a byte-pair vocabulary trained on the data, or an existing tokenizer."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from headrace.errors import RequestError
from headrace.train.config import MIN_VOCAB_SIZE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> "PreTrainedTokenizerBase":
    """Byte-level BPE: every text has tokens, and equal texts give an equal vocabulary.

    Args:
        texts: What to count pairs in.
        vocab_size: At most so many tokens: the end of text, 256 bytes, then merges as far as the texts have them.

    Raises:
        RequestError: The bytes alone are more.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise RequestError(
            f"a vocabulary of {vocab_size} tokens cannot be trained, the bytes and the end of text are "
            f"{MIN_VOCAB_SIZE}; set model.config.vocab_size to {MIN_VOCAB_SIZE} or more"
        )
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast  # Heavy imports, not needed where tokens are ready.

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    wrap: Callable[..., PreTrainedTokenizerBase] = PreTrainedTokenizerFast
    return wrap(tokenizer_object=bpe, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a folder or of a name on the hub.

    Raises:
        RequestError: There is none, or it has no end-of-text token to put between documents.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise RequestError(
            f"{name} has no tokenizer that transformers can load: {reason}; set data.tokenizer"
        ) from None
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or tokenizer.eos_token_id is None:
        raise RequestError(f"the tokenizer of {name} has no end-of-text token, which stands between documents")
    return tokenizer


def encode(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> list[list[int]]:
    """Token ids of each text; nothing is added, and a special token's name within a text is plain text."""
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)[
        "input_ids"
    ]
    return ids
