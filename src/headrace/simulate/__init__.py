"""Schedule and costs to timeline, memory and traffic."""

from headrace.simulate.simulator import Simulation, simulate
from headrace.simulate.timeline import Span, Timeline
from headrace.simulate.trace import timeline_to_trace, trace_to_timeline

__all__ = ["Simulation", "Span", "Timeline", "simulate", "timeline_to_trace", "trace_to_timeline"]
