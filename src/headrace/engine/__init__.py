"""The interpreter of schedules: runs a plan on a chain in every process of a job."""

from headrace.engine.batch import Batch
from headrace.engine.engine import Engine
from headrace.engine.forward import EvaluationResult
from headrace.engine.result import StepResult
from headrace.engine.update import AdamWSettings

__all__ = ["AdamWSettings", "Batch", "Engine", "EvaluationResult", "StepResult"]
