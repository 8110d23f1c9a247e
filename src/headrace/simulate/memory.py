"""Peak memory of each rank in bytes."""

from dataclasses import dataclass

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


def peak_activation_bytes(schedule: Schedule, costs: StageCosts) -> tuple[int, ...]:
    """The most bytes of saved activations that each rank holds at a time.

    Args:
        schedule: A schedule that has been checked.
        costs: Of each stage.
    """
    held = held_activations(schedule, costs.saved_bytes, costs.weight_saved_bytes, costs.working_bytes or None)
    return tuple(round(peak) for peak in peaks(schedule, held))


def rank_memory(checked: Checked, costs: StageCosts, optimizer_bytes_per_byte: float) -> RankMemory:
    """All of a rank's memory: each weight version that it must hold, one gradient and the optimizer's state.

    Args:
        checked: The schedule.
        costs: Of each stage.
        optimizer_bytes_per_byte: Optimizer state for a byte of parameters, such as 2 for AdamW in one precision.
    """
    schedule = checked.schedule
    stages = [schedule.stages_of(rank) for rank in range(schedule.num_ranks)]
    plain = tuple(sum(costs.parameter_bytes[s] for s in held) for held in stages)
    versions = [stage.held for stage in checked.weight_versions]
    return RankMemory(
        parameter_bytes=tuple(sum(versions[s] * costs.parameter_bytes[s] for s in held) for held in stages),
        gradient_bytes=plain,
        optimizer_bytes=tuple(round(optimizer_bytes_per_byte * num_bytes) for num_bytes in plain),
        activation_bytes=peak_activation_bytes(schedule, costs),
    )
