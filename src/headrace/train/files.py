"""Where everything of a run lies."""

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.errors import RequestError


@dataclass(frozen=True)
class RunFiles:
    """The run folder and the names of what is in it."""

    run_dir: Path

    @property
    def config(self) -> Path:
        """The configuration with all overrides applied."""
        return self.run_dir / "config.yaml"

    @property
    def job(self) -> Path:
        """Where the data lies, and the model's configuration."""
        return self.run_dir / "job.json"

    @property
    def plan(self) -> Path:
        """The plan with its prediction and reasons."""
        return self.run_dir / "plan.json"

    @property
    def predicted_timeline(self) -> Path:
        """One simulated step, as a trace that Perfetto opens."""
        return self.run_dir / "predicted_timeline.json"

    @property
    def timeline(self) -> Path:
        """The last recorded step, as a trace that Perfetto opens."""
        return self.run_dir / "timeline.json"

    @property
    def metrics(self) -> Path:
        """One JSON object for each step."""
        return self.run_dir / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """How it ended, predicted against measured."""
        return self.run_dir / "summary.json"

    @property
    def export(self) -> Path:
        """The trained model as an ordinary Hugging Face folder."""
        return self.run_dir / "export"

    @property
    def events(self) -> Path:
        """TensorBoard events."""
        return self.run_dir / "tensorboard"

    @property
    def stop(self) -> Path:
        """Whoever makes this file asks the run to finish its step, save and stop."""
        return self.run_dir / "stop"

    @property
    def watch(self) -> Path:
        """What each rank is at, for the others to read; gone when the run has ended well."""
        return self.run_dir / "watch"

    def open_new(self) -> None:
        """Makes the folder.

        Raises:
            RequestError: It holds a run already, or cannot be made.
        """
        if self.config.exists() or self.metrics.exists():
            raise RequestError(
                f"{self.run_dir} holds a run already; go on with it by --resume, or choose another --run-dir"
            )
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(
                f"the run folder {self.run_dir} cannot be made: {error.strerror}; choose another --run-dir"
            ) from None

    def drop_empty(self) -> None:
        """Removes the folder where nothing was written into it, as after a request that was refused."""
        with contextlib.suppress(OSError):
            self.run_dir.rmdir()


def write_json(path: Path, data: Any) -> None:
    """Writes a whole file or none."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(data, indent=1) + "\n")
    os.replace(partial, path)
