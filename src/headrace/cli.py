"""The command line: each verb is a thin cover over one plain Python call."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from headrace import __version__
from headrace.cli_shown import print_json, say, show_end, show_plan, shown
from headrace.errors import HeadraceError, RequestError
from headrace.view.working import Working

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
    with Working(shown) as progress:

        def show(job: "Job") -> None:
            progress.close()
            if not as_json:
                show_plan(job)

        job = start(loaded, folder, resume, show, progress)
    if not by_torchrun or os.environ["RANK"] == "0":
        show_end(job, as_json, [str(config), *(overrides or [])])


@app.command(epilog="Example: headrace launch examples/quickstart.yaml --on slurm --nodes 2 --out quickstart.sbatch")
def launch(
    config: ConfigPath,
    overrides: Overrides = None,
    *,
    on: Annotated[str, typer.Option(help="Who starts the machines: slurm, kubernetes, ray or skypilot.")],
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")],
    gpus_per_node: Annotated[
        int | None, typer.Option(min=1, help="GPUs, and so processes, of each machine; absent: as the layout asks for.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="The run folder, which all machines see; absent: runs/ and the config's name.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; absent: standard output.")] = None,
) -> None:
    """Write the file that starts a job on several machines: an sbatch script, a manifest, a Ray or a SkyPilot file."""
    from headrace.train.launch_file import write_launch_file

    typer.echo(write_launch_file(out, config, overrides or [], on, nodes, gpus_per_node, run_dir), nl=out is not None)


@app.command(epilog="Example: headrace check llama --json")
def check(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A model type, a config.json, or a Hugging Face folder.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Check every type that transformers has, in minutes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Prove on small random weights that cutting this model changes nothing."""
    if every == (model is not None):
        raise RequestError("check takes either a MODEL, such as llama, or --all")
    if model is None:
        return _check_all(as_json)
    from headrace.chain.check import check_named

    verdict = check_named(model)
    if as_json:
        print_json(verdict.to_json())
    elif verdict.exact:
        typer.echo(f"{verdict.type}: exact at all {verdict.cuts} cuts of {verdict.layers} layers")
    if not verdict.exact:
        raise RequestError(f"{verdict.type} is refused: {verdict.reason}")


def _check_all(as_json: bool) -> None:
    from headrace.chain.all_types import check_all

    with Working(shown) as progress:
        verdicts = check_all(progress=progress)
    num_exact = sum(verdict.exact for verdict in verdicts)
    if as_json:
        print_json({"num_types": len(verdicts), "num_exact": num_exact, "types": [v.to_json() for v in verdicts]})
        return
    for verdict in verdicts:
        typer.echo(
            f"{verdict.type}: " + (f"exact at all {verdict.cuts} cuts" if verdict.exact else f"{verdict.reason}")
        )
    typer.echo(f"{num_exact} of {len(verdicts)} types are exact")


@app.command(epilog="Example: headrace plan examples/quickstart.yaml parallel.pp=4")
def plan(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Choose and explain the layout of a job on this machine, with costs measured now; runs nothing."""
    from headrace.train.config import load_config

    loaded = load_config(config, overrides)
    from headrace.train.job import plan_job

    with Working(shown) as progress:
        chain, made, _ = plan_job(loaded, progress)
    if as_json:
        print_json(made.to_json())
    else:
        from headrace.view.terminal import plan_table

        Console().print(plan_table(made, chain, loaded.train.batch, loaded.data.sequence_length))


@app.command(
    epilog="Example: headrace simulate zb-h1 --stages 8 --microbatches 24 --f-ms 10 --i-ms 10 --w-ms 5 --comm-ms 1"
)
def simulate(
    schedule: Annotated[
        str, typer.Argument(metavar="SCHEDULE", help="A family, auto, forward, all, or a schedule file (.csv, .json).")
    ],
    stages: Annotated[int, typer.Option(help="Ranks of the pipeline.")],
    microbatches: Annotated[int, typer.Option(help="Micro-batches of a step.")],
    f_ms: Annotated[float, typer.Option(help="Forward of one micro-batch through one rank's layers.")],
    i_ms: Annotated[float, typer.Option(help="Gradient of the input.")],
    w_ms: Annotated[float, typer.Option(help="Gradient of the weights.")],
    comm_ms: Annotated[float, typer.Option(help="A message between two ranks.")] = 0.0,
    chunks: Annotated[int | None, typer.Option(help="Stages on each rank; absent: the family's own.")] = None,
    memory_limit: Annotated[
        float | None, typer.Option(help="Activations that a rank may hold, as a share of what 1F1B holds.")
    ] = None,
    w_memory: Annotated[float, typer.Option(help="Share of a micro-batch's activations that W still needs.")] = 0.5,
    plot: Annotated[Path | None, typer.Option(help="Draw the step: a .svg, .png or .pdf file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Price a schedule, or all of them, under given times: bubble, memory, a bound, and a picture."""
    from headrace.simulate.report import Question, answer, answer_all
    from headrace.view.terminal import schedules_table

    question = Question(stages, microbatches, f_ms, i_ms, w_ms, comm_ms, chunks, memory_limit, w_memory)
    if schedule == "all":
        if plot is not None:
            raise RequestError("--plot draws one schedule, not all; name it")
        every = answer_all(question)
        print_json(every) if as_json else Console().print(schedules_table(every["schedules"], every["left_out"]))
        return
    row, simulation = answer(schedule, question)
    if plot is not None:
        from headrace.view.schedule_picture import draw_schedule

        draw_schedule(simulation, plot)
    print_json(row) if as_json else Console().print(schedules_table([row], []))


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

    with Working(shown) as progress:
        chain, costs = profile_job(loaded, rows, progress)
    if as_json:
        from dataclasses import asdict

        layers = [{"name": layer.name, **asdict(cost)} for layer, cost in zip(chain.layers, costs.layers, strict=True)]
        print_json({**asdict(costs), "layers": layers})
    else:
        Console().print(cost_table(costs, chain))


@app.command(epilog="Example: headrace cluster --json")
def cluster(as_json: AsJson = False) -> None:
    """Say which devices this machine has, how fast they are, and what a message between them costs."""
    from dataclasses import asdict

    from headrace.cluster import this_machine
    from headrace.engine.link import with_measured_link

    found = with_measured_link(this_machine())
    if as_json:
        print_json(asdict(found))
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
        print_json(page_data(run))
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


@app.command(epilog="Example: headrace sample runs/quickstart 'def main(' --tokens 32")
def sample(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text; token ids where the run has no tokenizer.")],
    tokens: Annotated[
        int | None, typer.Option(help="New tokens at the most; absent: 48, or what the model has room for.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="How freely tokens are drawn; 0 takes the likeliest each time.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the draws; the same seed draws the same in every layout.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Let a run's newest checkpoint go on from a prompt, through the pipeline of its plan on this machine."""
    from dataclasses import asdict

    from headrace.train.sample import sample_run

    made = sample_run(run, prompt, tokens, temperature, seed)
    if as_json:
        print_json(asdict(made))
    else:
        typer.echo(made.text)


def main() -> None:
    """The console script: a person's mistake is one sentence and exit 2, a failed run one sentence and exit 1."""
    # Transformers' advice is for authors of model code; every rank would draw a bar of its own.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except HeadraceError as error:
        say(f"headrace: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("headrace: interrupted before the run began; nothing was lost")
        sys.exit(130)
