"""The interpreter of schedules: runs a plan on a chain in every process of a job."""

from headrace.engine.batch import Batch
from headrace.engine.engine import AdamWSettings, Engine, StepResult

__all__ = ["AdamWSettings", "Batch", "Engine", "StepResult"]
