"""The op: the one unit of work that schedules order, engines run and timelines show."""

from typing import Literal, NamedTuple

Kind = Literal["F", "B", "I", "W"]
KINDS: tuple[Kind, ...] = ("F", "B", "I", "W")


class Op(NamedTuple):
    """One piece of a stage's work on one micro-batch.

    Attributes:
        kind: ``F`` forward, ``B`` full backward, ``I`` gradient of the stage's input,
            ``W`` gradient of its weights. ``B`` is ``I`` then ``W``.
        stage: Index of the stage along the chain, counted from 0.
        microbatch: Index of the micro-batch within the step, counted from 0.
    """

    kind: Kind
    stage: int
    microbatch: int

    def __str__(self) -> str:
        return f"{self.kind}(stage {self.stage}, micro-batch {self.microbatch})"
