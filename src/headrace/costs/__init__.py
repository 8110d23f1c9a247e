"""What layers and links cost."""

from headrace.costs.analytic import analytic_costs
from headrace.costs.costs import Costs, LayerCosts, LinkCosts, StageCosts, recomputed, slowed, stage_costs

__all__ = [
    "Costs",
    "LayerCosts",
    "LinkCosts",
    "StageCosts",
    "analytic_costs",
    "recomputed",
    "slowed",
    "stage_costs",
]
