"""The data of a job: documents, token ids, and the order in which they are learnt."""

from headrace.train.data.batches import TokenData
from headrace.train.data.cursor import window_of_sample
from headrace.train.data.prepared import Prepared
from headrace.train.data.progress import Progress
from headrace.train.data.tokens import prepare, vocab_size_of

__all__ = ["Prepared", "Progress", "TokenData", "prepare", "vocab_size_of", "window_of_sample"]
