"""A run folder as the training loop leaves it: the one reader of its files."""

import json
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from headrace.errors import RequestError
from headrace.plan.plan import Plan
from headrace.simulate.timeline import Timeline
from headrace.simulate.trace import trace_to_timeline

REQUIRED = ("plan.json", "config.yaml")


@dataclass(frozen=True)
class RunFolder:
    """What a run has written so far; a run that is alive has less of it.

    Attributes:
        path: The folder.
        plan: What was planned.
        config: The resolved configuration, as read; has the sections ``model`` and ``train``.
        config_text: The same, as written.
        metrics: One row a step, ascending; of a step that ran twice (after a resume) the later row. A figure
            that was not finite is None.
        predicted: The simulator's timeline of one step; None where it was not written.
        measured: The engine's; None where it was not written.
        summary: ``status``, ``error``, ``predicted`` and ``measured``; empty until the run ends.
    """

    path: Path
    plan: Plan
    config: dict[str, Any]
    config_text: str
    metrics: tuple[dict[str, Any], ...]
    predicted: Timeline | None
    measured: Timeline | None
    summary: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "RunFolder":
        """Reads all of it.

        Raises:
            RequestError: The folder, or a file that every run has, is missing, or a file is broken.
        """
        if not path.is_dir():
            raise RequestError(f"there is no run folder {path}; give the folder that `headrace train` wrote")
        missing = [name for name in REQUIRED if not (path / name).is_file()]
        if missing:
            raise RequestError(
                f"{path} is not a run folder, {' and '.join(missing)} missing; "
                "give the folder that `headrace train` wrote"
            )
        return cls(
            path=path,
            plan=_read_plan(path / "plan.json"),
            config=_read_config(path / "config.yaml"),
            config_text=_read_text(path / "config.yaml"),
            metrics=_read_metrics(path / "metrics.jsonl"),
            predicted=_read_timeline(path / "predicted_timeline.json"),
            measured=_read_timeline(path / "timeline.json"),
            summary=_read_json(path / "summary.json") or {},
        )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read ({error}); restore it or give another run folder") from error


def _parse(text: str, where: str) -> dict[str, Any]:
    """A JSON object, its non-finite numbers as None."""
    try:
        value = json.loads(text, parse_constant=lambda name: None, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise RequestError(f"{where} is not JSON ({error}); restore it or remove it") from error
    if not isinstance(value, dict):
        raise RequestError(
            f"{where} holds a {type(value).__name__} where a JSON object belongs; restore it or remove it"
        )
    return value


def _finite(digits: str) -> float | None:
    return value if math.isfinite(value := float(digits)) else None


def _read_json(path: Path) -> dict[str, Any] | None:
    return _parse(_read_text(path), str(path)) if path.exists() else None


def _read_plan(path: Path) -> Plan:
    try:
        return Plan.from_json(_parse(_read_text(path), str(path)))
    except (KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"{path} is not a plan of this version of headrace ({error}); restore it") from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(_read_text(path))
    except yaml.YAMLError as error:
        raise RequestError(f"{path} is not YAML ({' '.join(str(error).split())}); restore it") from error
    config: dict[str, Any] = loaded if isinstance(loaded, dict) else {}
    for section in ("model", "train"):
        if not isinstance(config.get(section), dict):
            raise RequestError(f"{path} has no section '{section}'; restore it as the run wrote it")
    return config


def _read_timeline(path: Path) -> Timeline | None:
    trace = _read_json(path)
    if trace is None:
        return None
    try:
        return trace_to_timeline(trace)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from error


def _read_metrics(path: Path) -> tuple[dict[str, Any], ...]:
    """Rows by step. A last line without its newline that is not whole is still being written, so it is left out."""
    if not path.exists():
        return ()
    *lines, tail = _read_text(path).split("\n")
    rows = [_parse(line, f"{path} line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    with suppress(RequestError):
        rows += [_parse(tail, "")] if tail.strip() else []
    try:
        return tuple(row for _, row in sorted({int(row["step"]): row for row in rows}.items()))
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{path} has a line without a step ({error}); restore it or remove it") from error
