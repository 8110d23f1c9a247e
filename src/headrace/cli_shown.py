"""What the command line shows: of a job its plan before and its end after, and answers as they are."""

import json
import shlex
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from headrace.train.job import Job

shown = Console(stderr=True)


def show_plan(job: "Job") -> None:
    """The plan, before the run."""
    from headrace.view.terminal import plan_table

    config = job.config
    shown.print(plan_table(job.plan, job.source.chain(), config.train.batch, config.data.sequence_length))
    say(f"Run folder: {job.files.run_dir}")


def show_end(job: "Job", as_json: bool, asked: list[str]) -> None:
    """How it ended; of one that was stopped the command that goes on. ``asked``: the words of this command."""
    from headrace.train.finish import sample

    files = job.files
    summary: dict[str, Any] = json.loads(files.summary.read_text())
    if as_json:
        print_json(summary)
        return
    if summary["status"] == "stopped":
        way = shlex.join(["headrace", "train", *asked, "--run-dir", str(files.run_dir), "--resume"])
        say(f"Stopped after step {summary['steps']}, which is saved; go on with: {way}")
        return
    from headrace.view.terminal import comparison, whereabouts

    shown.print(comparison(summary))
    shown.print(whereabouts(files.run_dir), highlight=False)
    if (written := sample(job, files)) is not None:
        from rich.text import Text

        shown.print("\nA sample by plain transformers, from the exported folder", style="bold")
        shown.print(Text.assemble((written[0], "dim"), written[1]))


def say(text: str) -> None:
    """One line as it is, however narrow the terminal."""
    shown.print(text, markup=False, highlight=False, soft_wrap=True)


def print_json(data: Any) -> None:
    """One object on standard output."""
    typer.echo(json.dumps(data))
