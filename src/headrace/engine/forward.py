"""Forward-only runs: the same interpreter and channels, no graph, no draws, and a train state left as it was."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from headrace.chain.microbatch import MicroBatch
from headrace.chain.part import Part
from headrace.engine.channels import Channels
from headrace.engine.interpreter import Interpreter
from headrace.engine.program import Program
from headrace.engine.stage import Stage
from headrace.schedule import check, forward_only


@dataclass(frozen=True)
class EvaluationResult:
    """What a batch is to the model as it stands; the same on every rank.

    Attributes:
        loss: Mean over the valid tokens.
        num_valid_tokens: Labels that count.
    """

    loss: float
    num_valid_tokens: int


class ForwardStage(Stage):
    """A part that only goes forward; it shares its weights with the stage that trains.

    Attributes:
        answers: Where the head is here: what it answered for each micro-batch.
    """

    def __init__(self, part: Part) -> None:
        """Takes the layers as they are."""
        super().__init__(part, split_backward=False)
        self.answers: dict[int, Tensor] = {}

    @torch.no_grad()
    def forward(self, microbatch: int, hidden: Tensor | None, batch: MicroBatch) -> Tensor | None:
        """Op F; nothing is kept but the head's answer."""
        output = self.part.forward(hidden, batch)
        if not self.part.has_head:
            return output
        self.answers[microbatch] = output
        return None


class ForwardRuns:
    """Runs micro-batches through all stages, and tells every rank what came out at the head."""

    def __init__(
        self, parts: dict[int, Part], channels: Channels, placement: tuple[int, ...], ranks: list[int], rank: int
    ) -> None:
        """Takes what the engine has built.

        Args:
            parts: The local ones by stage.
            channels: To the other ranks.
            placement: Pipeline rank of each stage.
            ranks: Global ranks of this pipeline.
            rank: This process's place in it.
        """
        self._stages = {stage: ForwardStage(part) for stage, part in parts.items()}
        self._interpreter = Interpreter(dict(self._stages), channels, rank)
        self._channels, self._placement, self._rank = channels, placement, rank
        self._head_rank = ranks[placement[-1]]
        self._programs: dict[int, Program] = {}

    def run(self, batches: list[MicroBatch], hidden_size: int, step: int) -> list[Tensor] | None:
        """One pass of all micro-batches.

        Returns:
            The head's answers in the order of micro-batches; None on ranks that do not hold the head.

        Raises:
            RunError: An op failed here, or a peer is gone; names rank, stage, op and micro-batch.
        """
        with _evaluating(stage.part.model for stage in self._stages.values()):
            self._interpreter.run(self._program_for(len(batches)), batches, hidden_size, step)
        head = self._stages.get(len(self._placement) - 1)
        if head is None:
            return None
        answers = [head.answers[microbatch] for microbatch in range(len(batches))]
        head.answers.clear()
        return answers

    def tell_all(self, value: Tensor) -> Tensor:
        """What the head's rank gives (the others: a tensor of that shape and type), on every rank.

        Raises:
            PeerLostError: A rank is gone.
            StuckError: A rank did not come in time.
        """
        watch = self._channels.watch
        with watch.waiting("at the end of a forward-only run"):
            work = dist.broadcast(value, self._head_rank, async_op=True)
            assert work is not None
            work.wait(watch.timeout)
        self._channels.close_step()
        return value

    def _program_for(self, num_microbatches: int) -> Program:
        if num_microbatches not in self._programs:
            schedule = forward_only(self._placement, num_microbatches)
            self._programs[num_microbatches] = Program.of(check(schedule), self._rank)
        return self._programs[num_microbatches]


@contextmanager
def _evaluating(models: Iterable[torch.nn.Module]) -> Iterator[None]:
    """No dropout; afterwards each module is in the mode that it was in."""
    training = [module for model in models for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
