"""Schedule and costs to timeline, memory and traffic."""

from headrace.simulate.auto import Found, auto
from headrace.simulate.bound import lower_bound_s
from headrace.simulate.memory import RankMemory, rank_memory
from headrace.simulate.simulator import Simulation, simulate
from headrace.simulate.timeline import Span, Timeline
from headrace.simulate.trace import timeline_to_trace, trace_to_timeline
from headrace.simulate.traffic import Traffic
from headrace.simulate.update import Update, update

__all__ = [
    "Found",
    "RankMemory",
    "Simulation",
    "Span",
    "Timeline",
    "Traffic",
    "Update",
    "auto",
    "lower_bound_s",
    "rank_memory",
    "simulate",
    "timeline_to_trace",
    "trace_to_timeline",
    "update",
]
