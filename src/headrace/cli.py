"""The command line: each verb is a thin cover over one plain Python call."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from headrace import __version__
from headrace.errors import HeadraceError, RequestError

if TYPE_CHECKING:
    from headrace.train.job import Job

app = typer.Typer(
    name="headrace",
    help="Plans, runs and explains pipeline-parallel training of Hugging Face models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
shown = Console(stderr=True)

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else there.")
]
ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="The job's YAML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="SECTION.KEY=VALUE", help="Win over the file.")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command(epilog="Example: headrace train examples/quickstart.yaml train.steps=20 parallel.pp=3 --run-dir runs/r3")
def train(
    config: ConfigPath,
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option(help="The run folder; absent: runs/ and the config's name.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run folder's newest checkpoint.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a job: on this machine's own processes, or as a rank of torchrun."""
    from headrace.train.config import load_config

    loaded = load_config(config, overrides)
    from headrace.train.run import choose_run_dir, train_as_rank, train_here

    folder = choose_run_dir(loaded, config, run_dir, resume)
    by_torchrun = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    start = train_as_rank if by_torchrun else train_here
    with _Working() as progress:

        def show_plan(job: "Job") -> None:
            progress.close()
            if not as_json:
                _show_plan(job)

        job = start(loaded, folder, resume, show_plan, progress)
    if not by_torchrun or os.environ["RANK"] == "0":
        _show_end(job, as_json, [str(config), *(overrides or [])])


@app.command(epilog="Example: headrace check llama --json")
def check(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model type, a config.json, or a Hugging Face folder.")
    ],
    as_json: AsJson = False,
) -> None:
    """Prove on small random weights that cutting this model changes nothing."""
    from headrace.chain.build import config_of
    from headrace.chain.check import check as prove

    verdict = prove(config_of(model))
    if as_json:
        _print_json(verdict.to_json())
    elif verdict.exact:
        typer.echo(f"{verdict.type}: exact at all {verdict.cuts} cuts of {verdict.layers} layers")
    if not verdict.exact:
        raise RequestError(f"{verdict.type} is refused: {verdict.reason}")


@app.command(epilog="Example: headrace plan examples/quickstart.yaml parallel.pp=4")
def plan(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Choose and explain the layout of a job on this machine, with costs measured now; runs nothing."""
    from headrace.train.config import load_config

    loaded = load_config(config, overrides)
    from headrace.train.job import plan_job

    with _Working() as progress:
        chain, made, _ = plan_job(loaded, progress)
    if as_json:
        _print_json(made.to_json())
    else:
        from headrace.view.terminal import plan_table

        Console().print(plan_table(made, chain, loaded.train.batch, loaded.data.sequence_length))


@app.command(epilog="Example: headrace profile examples/quickstart.yaml --rows 2")
def profile(
    config: ConfigPath,
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of a micro-batch.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Measure seconds and bytes of each kind of layer of a job's model on this machine."""
    from headrace.train.config import load_config

    loaded = load_config(config, overrides)
    from headrace.train.job import profile_job
    from headrace.view.terminal import cost_table

    with _Working() as progress:
        chain, costs = profile_job(loaded, rows, progress)
    if as_json:
        from dataclasses import asdict

        layers = [{"name": layer.name, **asdict(cost)} for layer, cost in zip(chain.layers, costs.layers, strict=True)]
        _print_json({**asdict(costs), "layers": layers})
    else:
        Console().print(cost_table(costs, chain))


@app.command(epilog="Example: headrace cluster --json")
def cluster(as_json: AsJson = False) -> None:
    """Say which devices this machine has, how fast they are, and what a message between them costs."""
    from dataclasses import asdict

    from headrace.cluster import this_machine

    found = this_machine()
    if as_json:
        _print_json(asdict(found))
    else:
        from headrace.view.terminal import cluster_table

        Console().print(cluster_table(found))


@app.command(epilog="Example: headrace view runs/quickstart")
def view(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[Path | None, typer.Option(help="The page; absent: RUN/report.html.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's report: one HTML page with its curves, memory, and predicted and measured timeline."""
    from headrace.view import page_data, write_page

    if as_json:
        _print_json(page_data(run))
    else:
        typer.echo(write_page(run, out))


@app.command(epilog="Example: headrace export runs/quickstart my-model")
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
) -> None:
    """Write a run's newest checkpoint as an ordinary Hugging Face folder."""
    from headrace.train.finish import export_run
    from headrace.train.job import load_job

    typer.echo(export_run(run, out, load_job(run).prepared.tokenizer_folder))


class _Working:
    """Shows long work before the run: a bar that is gone when the work is."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn())
        self._bar = Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal)
        self._task = self._bar.add_task("", total=None)

    def __call__(self, done: int, total: int, what: str) -> None:
        self._bar.update(self._task, completed=done, total=total, description=what)

    def close(self) -> None:
        self._bar.stop()

    def __enter__(self) -> "_Working":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _show_plan(job: "Job") -> None:
    from headrace.view.terminal import plan_table

    config = job.config
    shown.print(plan_table(job.plan, job.source.chain(), config.train.batch, config.data.sequence_length))
    _say(f"Run folder: {job.files.run_dir}")


def _show_end(job: "Job", as_json: bool, asked: list[str]) -> None:
    from headrace.train.finish import sample

    files = job.files
    summary: dict[str, Any] = json.loads(files.summary.read_text())
    if as_json:
        _print_json(summary)
        return
    if summary["status"] == "stopped":
        way = shlex.join(["headrace", "train", *asked, "--run-dir", str(files.run_dir), "--resume"])
        _say(f"Stopped after step {summary['steps']}, which is saved; go on with: {way}")
        return
    from headrace.view.terminal import comparison, whereabouts

    shown.print(comparison(summary))
    shown.print(whereabouts(files.run_dir), highlight=False)
    if (written := sample(job, files)) is not None:
        from rich.text import Text

        shown.print("\nA sample by plain transformers, from the exported folder", style="bold")
        shown.print(Text.assemble((written[0], "dim"), written[1]))


def _say(text: str) -> None:
    """One line as it is, however narrow the terminal."""
    shown.print(text, markup=False, highlight=False, soft_wrap=True)


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data))


def main() -> None:
    """The console script: a person's mistake is one sentence and exit 2, a failed run one sentence and exit 1."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # Its advice is for authors of model code.
    try:
        app()
    except HeadraceError as error:
        _say(f"headrace: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _say("headrace: interrupted before the run began; nothing was lost")
        sys.exit(130)
