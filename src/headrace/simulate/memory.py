"""Peak memory of each rank in bytes."""

from dataclasses import dataclass, replace

from headrace.costs.costs import StageCosts
from headrace.schedule.checker import Checked
from headrace.schedule.memory import held_activations, peaks
from headrace.schedule.schedule import Schedule


@dataclass(frozen=True)
class RankMemory:
    """Bytes at the peak of a step, one entry a rank in each."""

    parameter_bytes: tuple[int, ...]
    gradient_bytes: tuple[int, ...]
    optimizer_bytes: tuple[int, ...]
    activation_bytes: tuple[int, ...]

    def total_bytes(self, rank: int) -> int:
        """All that ``rank`` holds."""
        parts = (self.parameter_bytes, self.gradient_bytes, self.optimizer_bytes, self.activation_bytes)
        return sum(part[rank] for part in parts)


def peak_activation_bytes(schedule: Schedule, costs: StageCosts, recompute: bool = False) -> tuple[int, ...]:
    """The most bytes of saved activations that each rank holds at a time.

    Args:
        schedule: A schedule that has been checked.
        costs: Of each stage.
        recompute: Only the stage's input is kept until the backward, which makes the rest again.
    """
    working = costs.saved_bytes if recompute else None
    saved = with_recompute(costs).saved_bytes if recompute else costs.saved_bytes
    held = held_activations(schedule, saved, costs.weight_saved_bytes, working)
    return tuple(round(peak) for peak in peaks(schedule, held))


def with_recompute(costs: StageCosts) -> StageCosts:
    """Costs of stages that keep only their input (the first: nothing, it reads tokens) and run ``F`` again."""
    return replace(
        costs,
        i_s=tuple(i_s + f_s for i_s, f_s in zip(costs.i_s, costs.f_s, strict=True)),
        saved_bytes=(0, *costs.output_bytes[:-1]),
    )


def rank_memory(
    checked: Checked, costs: StageCosts, optimizer_bytes_per_byte: float, recompute: bool = False
) -> RankMemory:
    """All of a rank's memory: each weight version that it must hold, one gradient and the optimizer's state.

    Args:
        checked: The schedule.
        costs: Of each stage.
        optimizer_bytes_per_byte: Optimizer state for a byte of parameters, such as 2 for AdamW in one precision.
        recompute: As in `peak_activation_bytes`.
    """
    schedule = checked.schedule
    stages = [schedule.stages_of(rank) for rank in range(schedule.num_ranks)]
    plain = tuple(sum(costs.parameter_bytes[s] for s in held) for held in stages)
    versions = [stage.held for stage in checked.weight_versions]
    return RankMemory(
        parameter_bytes=tuple(sum(versions[s] * costs.parameter_bytes[s] for s in held) for held in stages),
        gradient_bytes=plain,
        optimizer_bytes=tuple(round(optimizer_bytes_per_byte * num_bytes) for num_bytes in plain),
        activation_bytes=peak_activation_bytes(schedule, costs, recompute),
    )
