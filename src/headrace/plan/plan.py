"""The plan: layout, schedule and what they should give, with the reasons."""

from dataclasses import asdict, dataclass, field
from typing import Any

from headrace.chain.chain import RecomputeMode
from headrace.schedule.families import make_schedule
from headrace.schedule.files import schedule_from_json
from headrace.schedule.schedule import Schedule


@dataclass(frozen=True)
class Layout:
    """Which layers each stage holds, and which rank holds each stage.

    Attributes:
        dp, pp, tp: Sizes of the mesh.
        chunks: Stages on each rank.
        bounds: Stage ``s`` holds the chain's layers ``bounds[s] … bounds[s + 1] - 1``.
        placement: ``placement[stage]`` is the pipeline rank that holds the stage.
    """

    dp: int
    pp: int
    tp: int
    chunks: int
    bounds: tuple[int, ...]
    placement: tuple[int, ...]

    @property
    def num_stages(self) -> int:
        """Stages of one pipeline."""
        return len(self.bounds) - 1

    @property
    def num_ranks(self) -> int:
        """Processes that the layout needs."""
        return self.dp * self.pp * self.tp


@dataclass(frozen=True)
class Prediction:
    """What the plan should give when it runs; tuples of bytes have one entry a pipeline rank.

    Attributes:
        step_s: Seconds of one step, the optimizer's own updates included.
        idle_share: Share of all ranks' time in the pipeline, the update apart, in which they do not compute, 0 to 1.
        tokens_per_s: Over the whole job.
        parameter_bytes, gradient_bytes, optimizer_bytes, activation_bytes: At the peak of the step; all versions of
            the parameters; the copies of post-validation count as the optimizer's.
        messages: Messages between stages in one step.
        message_bytes: Their bytes.
        stage_f_s, stage_b_s: Seconds of the forward and the full backward of one micro-batch, one entry a stage;
            updates that are made within the step are shared out among the backwards.
        in_flight: The most micro-batches whose activations a stage holds at a time, one entry a stage.
    """

    step_s: float
    idle_share: float
    tokens_per_s: float
    parameter_bytes: tuple[int, ...]
    gradient_bytes: tuple[int, ...]
    optimizer_bytes: tuple[int, ...]
    activation_bytes: tuple[int, ...]
    messages: int
    message_bytes: int
    stage_f_s: tuple[float, ...] = ()
    stage_b_s: tuple[float, ...] = ()
    in_flight: tuple[int, ...] = ()

    def memory_bytes(self, rank: int) -> int:
        """All that pipeline rank ``rank`` holds at its peak."""
        parts = (self.parameter_bytes, self.gradient_bytes, self.optimizer_bytes, self.activation_bytes)
        return sum(part[rank] for part in parts)


@dataclass(frozen=True)
class Plan:
    """Everything that the engine needs to run, and why it is so.

    Attributes:
        layout: The cut.
        schedule: Name of the schedule's family, or its file.
        microbatches: Micro-batches of one step on each data-parallel copy.
        microbatch_size: Rows of a full micro-batch (the last ones of an uneven batch hold one less).
        recompute: The mode of each transformer layer; empty where all activations are kept.
        prediction: What should come out; None where nothing was priced.
        reasons: Sentences for a person, most important first.
        costs_source: ``measured`` or ``analytic``.
        orders: For each rank its ops, written as in schedule files, such as ``0F3``; empty: as the family has them.
        loss_chunks: Chunks of tokens in which a micro-batch's loss is computed, so that less of its logits is alive.
        offload: Whether activations wait in the host's memory.
        post_validation: Whether ranks begin the next step before the norm of this one is known.
        update_every, delayed_update: Of the schedule, where ``orders`` are given.
    """

    layout: Layout
    schedule: str
    microbatches: int
    microbatch_size: int
    recompute: tuple[RecomputeMode, ...] = ()
    prediction: Prediction | None = None
    reasons: tuple[str, ...] = field(default=())
    costs_source: str = "analytic"
    orders: tuple[tuple[str, ...], ...] = field(default=(), repr=False)
    loss_chunks: int = 1
    offload: bool = False
    post_validation: bool = False
    update_every: int = 0
    delayed_update: bool = False

    def made_schedule(self) -> Schedule:
        """The order of the work.

        Raises:
            RequestError: There is no such schedule.
        """
        layout = self.layout
        if not self.orders:
            return make_schedule(self.schedule, layout.pp, self.microbatches, layout.chunks)
        return schedule_from_json(
            {
                "name": self.schedule,
                "orders": list(map(list, self.orders)),
                "update_every": self.update_every,
                "delayed_update": self.delayed_update,
            }
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Plan":
        """The inverse of `to_json`."""
        layout = Layout(**_with_tuples(data["layout"]))
        prediction = Prediction(**_with_tuples(data["prediction"])) if data["prediction"] else None
        orders = tuple(tuple(order) for order in data.get("orders", ()))
        made = {"layout": layout, "prediction": prediction, "orders": orders}
        return cls(**(_with_tuples(data) | made))


def _with_tuples(data: dict[str, Any]) -> dict[str, Any]:
    """JSON has only lists where our dataclasses hold tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
