"""What a step tells, at once or when its norm has come."""

from dataclasses import dataclass

import torch

from headrace.engine.agree import Exchange


@dataclass(frozen=True)
class StepResult:
    """One optimizer step; the same on every rank.

    Attributes:
        loss: Mean over all valid tokens of the step.
        grad_norm: Global norm of the gradients, before clipping; of several updates the root mean square.
        skipped: Whether the norm was not finite, so that no weight was changed; of several updates, whether a stage
            has left one out.
        num_tokens: Tokens of the batch.
        step_s: Seconds on this rank.
        idle_share: Share of all ranks' time, from the first forward to the last backward, without an op running.
        peak_memory_bytes: Per rank.
        stop: Whether any rank was asked to stop.
        step: Its number, counted from 1.
    """

    loss: float
    grad_norm: float
    skipped: bool
    num_tokens: int
    step_s: float
    idle_share: float
    peak_memory_bytes: tuple[int, ...]
    stop: bool
    step: int


@dataclass(frozen=True)
class MadeStep:
    """A step whose result is still to be told.

    Attributes:
        step: Its number, counted from 1.
        exchange: Of all ranks' words.
        num_tokens: Tokens of the batch.
        pipe_s: Seconds on this rank till the gradients were there: all ranks' where they were waited for.
        step_s: Seconds on this rank, with the update.
    """

    step: int
    exchange: Exchange
    num_tokens: int
    pipe_s: float
    step_s: float

    def result(self) -> StepResult:
        """Waits for the other ranks' words."""
        words, norm = self.exchange.words, self.exchange.norm
        return StepResult(
            loss=sum(word.loss for word in words),
            grad_norm=float(norm),
            skipped=not bool(torch.isfinite(norm)),
            num_tokens=self.num_tokens,
            step_s=self.step_s,
            idle_share=1.0 - sum(word.busy_s for word in words) / (len(words) * self.pipe_s),
            peak_memory_bytes=tuple(int(word.peak_memory_bytes) for word in words),
            stop=any(word.stop for word in words),
            step=self.step,
        )
