"""Updates under way: each stage steps its own weights as soon as their gradients are complete, and waits for nobody.

So there is no moment at which the norm of the whole gradient is known before a weight changes. Nothing is clipped, a
stage leaves an update out by its own gradients alone, and the norm that is told at the end of the step is one of what
has been. PipeDream: Narayanan et al. 2019, arXiv 1806.03377. PipeDream-2BW: Narayanan et al. 2021, arXiv 2006.09503.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from headrace.chain.anatomy import Anatomy
from headrace.chain.microbatch import MicroBatch
from headrace.engine.parameters import Parameters
from headrace.engine.program import Program
from headrace.engine.update import AdamWSettings, Update
from headrace.engine.versions import VersionedStage
from headrace.errors import RequestError
from headrace.plan import Plan


class LocalUpdate(Update):
    """Steps the local stages one by one in the course of the step."""

    def __init__(self, parameters: Parameters, settings: AdamWSettings, stages: Mapping[int, VersionedStage]) -> None:
        """Takes what the optimizer steps, and the stages that hold it."""
        super().__init__(parameters, settings)
        self._stages = stages
        self._norms: list[list[float]] = []
        self._num_updates = 0

    def open_step(self, program: Program, learning_rate: float | None) -> None:
        """Begins a step; all its updates have the same learning rate (None keeps the last)."""
        self.set_learning_rate(learning_rate)
        self._norms.clear()
        for number, stage in self._stages.items():
            stage.open_step(program.versions[number])
            self._num_updates = len(program.versions[number].updates)  # The same for every stage.

    def update(self, stage: int) -> None:
        """Makes the next version of a stage from the gradients that it has gathered since the last one.

        Where one of them is not finite the version is equal to the one before.
        """
        self._stages[stage].advance()
        self._parameters.sum_tied_gradients()
        self._norms.append(self._parameters.norms())
        if all(map(math.isfinite, self._norms[-1])):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def norms(self) -> list[float]:
        """Root mean square, over the step's updates, of the norm of each owned parameter's gradient.

        The norm of these is the root mean square of the updates' global norms.
        """
        return [_root_mean_square(column, self._num_updates) for column in zip(*self._norms, strict=True)]

    def step(self, norm: Tensor, learning_rate: float | None) -> bool:
        """Has been made; answers whether no stage has left an update out."""
        return bool(torch.isfinite(norm))


def mean_loss(losses: dict[int, Tensor], batches: list[MicroBatch], num_valid_tokens: int) -> float:
    """Mean over the step's tokens of what is here.

    Args:
        losses: Micro-batches' shares of the mean of their update; not a number where that has no valid token.
        batches: All of the step, with the valid tokens of their updates.
        num_valid_tokens: Of the step.
    """
    total = torch.zeros(())
    for microbatch, loss in losses.items():
        if batches[microbatch].num_valid_tokens:
            total = total + loss * batches[microbatch].num_valid_tokens
    return float(total / num_valid_tokens)


def refuse_clipping(schedule: str, clip_norm: float | None) -> None:
    """Raises `RequestError` where gradients are to be clipped under an asynchronous schedule."""
    if clip_norm is not None:
        raise RequestError(
            f"train.clip_norm is {clip_norm:g}, but schedule {schedule} updates each stage before the global norm of "
            "the gradient can be known; set train.clip_norm=null, or choose a synchronous schedule such as 1f1b"
        )


def check_asynchronous(plan: Plan, settings: AdamWSettings, anatomy: Anatomy, stage_of_layer: list[int]) -> None:
    """Raises `RequestError` for what cannot be had where each stage updates its weights on its own.

    That are a global norm to clip to, one update to take back (post-validation), and a parameter that two stages hold.
    """
    schedule = plan.schedule
    refuse_clipping(schedule, settings.clip_norm)
    if plan.post_validation:
        raise RequestError(
            f"parallel.post_validation takes back the one update of a step, but schedule {schedule} makes several "
            "under way, and waits for no norm; set parallel.post_validation=false"
        )
    for copy, owner in anatomy.tied:
        ends = [stage_of_layer[anatomy.layer_of(name)] for name in (owner, copy)]
        if ends[0] != ends[1]:
            raise RequestError(
                f"{copy} is tied to {owner}, but schedule {schedule} updates stage {ends[0]} and stage {ends[1]}, "
                "which hold them, at different times; set tie_word_embeddings: false in model.config, take "
                "parallel.pp=1, or choose a synchronous schedule such as 1f1b"
            )


def _root_mean_square(norms: tuple[float, ...], count: int) -> float:
    """-1 where no update has had a gradient."""
    met = [norm for norm in norms if norm != -1.0]
    return math.sqrt(sum(norm * norm for norm in met) / count) if met else -1.0
