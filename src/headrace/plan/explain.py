"""A plan as rows of a table, one a stage."""

from dataclasses import dataclass
from itertools import pairwise

from headrace.chain.chain import Chain
from headrace.plan.memory import num_held_parameters
from headrace.plan.plan import Plan
from headrace.plan.words import layers_text, stage_recompute_text


@dataclass(frozen=True)
class StageRow:
    """One stage as a person reads it.

    Attributes:
        stage: Counted from 0 along the chain.
        rank: The pipeline rank that holds it.
        layers: In words, such as ``embedding, layers 0-3``.
        num_parameters: Held there, a tied copy included.
        forward_s, backward_s: Predicted, of one micro-batch.
        memory_bytes: Of its rank, at the peak.
        in_flight: The most micro-batches whose activations it holds at a time.
        recompute: What it computes again, such as ``3 of 4 layers (selective)``; empty where it keeps all.
    """

    stage: int
    rank: int
    layers: str
    num_parameters: int
    forward_s: float
    backward_s: float
    memory_bytes: int
    in_flight: int
    recompute: str


def stage_rows(plan: Plan, chain: Chain) -> list[StageRow]:
    """The stages of a plan that `make_plan` has priced, in the order of the chain."""
    got, layout = plan.prediction, plan.layout
    assert got is not None, "rows are made of priced plans"
    columns = zip(layout.placement, pairwise(layout.bounds), got.stage_f_s, got.stage_b_s, got.in_flight, strict=True)
    return [
        StageRow(
            stage=stage,
            rank=rank,
            layers=layers_text(chain, first, end),
            num_parameters=num_held_parameters(chain, range(first, end)),
            forward_s=forward_s,
            backward_s=backward_s,
            memory_bytes=got.memory_bytes(rank),
            in_flight=in_flight,
            recompute=stage_recompute_text(plan.recompute, first, end),
        )
        for stage, (rank, (first, end), forward_s, backward_s, in_flight) in enumerate(columns)
    ]
