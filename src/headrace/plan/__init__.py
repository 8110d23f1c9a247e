"""Layout, partition and the explanation."""

from headrace.plan.partition import bounds_from_cuts, check_num_stages, partition
from headrace.plan.plan import Layout, Plan, Prediction

__all__ = ["Layout", "Plan", "Prediction", "bounds_from_cuts", "check_num_stages", "partition"]
