"""headrace: pipeline-parallel training that plans, explains and runs.

The nouns, from the bottom: `Chain`, `Cluster`, `Costs`, `Schedule`, `Timeline`, `Plan`, `Layout`, `Engine`. All but the
engine are plain data and import no torch; a name is loaded when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.chain import Chain, Layer
    from headrace.chain.build import ModelSource
    from headrace.cluster import Cluster, Device, Link, this_machine
    from headrace.costs import Costs, LayerCosts, LinkCosts, StageCosts
    from headrace.engine import AdamWSettings, Batch, Engine, EvaluationResult, StepResult
    from headrace.errors import HeadraceError, PeerLostError, RequestError, RunError
    from headrace.plan import Layout, Plan, Prediction, Wanted, make_plan
    from headrace.schedule import FAMILIES, Checked, Op, Schedule, check, make_schedule
    from headrace.simulate import Simulation, Span, Timeline
    from headrace.train.config import Config, load_config
    from headrace.view import write_page

__version__ = "0.1.0"

_HOMES = {
    "headrace.chain": ("Chain", "Layer"),
    "headrace.chain.build": ("ModelSource",),
    "headrace.cluster": ("Cluster", "Device", "Link", "this_machine"),
    "headrace.costs": ("Costs", "LayerCosts", "LinkCosts", "StageCosts"),
    "headrace.engine": ("AdamWSettings", "Batch", "Engine", "EvaluationResult", "StepResult"),
    "headrace.errors": ("HeadraceError", "PeerLostError", "RequestError", "RunError"),
    "headrace.plan": ("Layout", "Plan", "Prediction", "Wanted", "make_plan"),
    "headrace.schedule": ("FAMILIES", "Checked", "Op", "Schedule", "check", "make_schedule"),
    "headrace.simulate": ("Simulation", "Span", "Timeline"),
    "headrace.train.config": ("Config", "load_config"),
    "headrace.view": ("write_page",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "FAMILIES",
    "AdamWSettings",
    "Batch",
    "Chain",
    "Checked",
    "Cluster",
    "Config",
    "Costs",
    "Device",
    "Engine",
    "EvaluationResult",
    "HeadraceError",
    "Layer",
    "LayerCosts",
    "Layout",
    "Link",
    "LinkCosts",
    "ModelSource",
    "Op",
    "PeerLostError",
    "Plan",
    "Prediction",
    "RequestError",
    "RunError",
    "Schedule",
    "Simulation",
    "Span",
    "StageCosts",
    "StepResult",
    "Timeline",
    "Wanted",
    "check",
    "load_config",
    "make_plan",
    "make_schedule",
    "this_machine",
    "write_page",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
