"""Layout, partition and the explanation."""

from headrace.plan.explain import StageRow, stage_rows
from headrace.plan.orders import is_asynchronous
from headrace.plan.partition import bounds_from_cuts, check_num_stages, partition
from headrace.plan.plan import Layout, Plan, Prediction
from headrace.plan.planner import make_plan
from headrace.plan.rows import microbatch_choices, microbatch_rows
from headrace.plan.wanted import Wanted

__all__ = [
    "Layout",
    "Plan",
    "Prediction",
    "StageRow",
    "Wanted",
    "bounds_from_cuts",
    "check_num_stages",
    "is_asynchronous",
    "make_plan",
    "microbatch_choices",
    "microbatch_rows",
    "partition",
    "stage_rows",
]
