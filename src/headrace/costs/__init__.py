"""What layers and links cost."""

from headrace.costs.analytic import analytic_costs
from headrace.costs.costs import Costs, LayerCosts, LinkCosts, StageCosts, recomputed, stage_costs

__all__ = [
    "Costs",
    "LayerCosts",
    "LinkCosts",
    "StageCosts",
    "analytic_costs",
    "recomputed",
    "stage_costs",
]
