"""What layers and links cost."""

from headrace.costs.analytic import analytic_costs
from headrace.costs.costs import (
    Costs,
    LayerCosts,
    LinkCosts,
    StageCosts,
    loss_in_chunks,
    recomputed,
    slowed,
    stage_costs,
)

__all__ = [
    "Costs",
    "LayerCosts",
    "LinkCosts",
    "StageCosts",
    "analytic_costs",
    "loss_in_chunks",
    "recomputed",
    "slowed",
    "stage_costs",
]
