"""What layers and links cost."""

from headrace.costs.costs import Costs, LayerCosts, LinkCosts, StageCosts, recomputed, stage_costs

__all__ = ["Costs", "LayerCosts", "LinkCosts", "StageCosts", "recomputed", "stage_costs"]
