"""Files that start a job on several machines: each runs ``headrace train`` under torchrun on every one of them."""

import json
import re
import shlex
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template

from headrace.errors import RequestError
from headrace.plan import Wanted
from headrace.train.config import Config, load_config
from headrace.train.world import check_world


@dataclass(frozen=True)
class Target:
    """What starts machines.

    Attributes:
        suffix: Of its launch files.
        shared: The folder that all machines see; run folders lie below it.
    """

    suffix: str
    shared: str


TARGETS = {
    "slurm": Target(".sbatch", "."),
    "kubernetes": Target(".yaml", "/shared"),
    "ray": Target(".py", "/shared"),
    "skypilot": Target(".yaml", "/shared"),
}


class _LaunchTemplate(Template):
    """``@{name}`` is filled in: shells keep their ``$`` and Python its braces."""

    delimiter = "@"


def launch_file(
    config_path: Path,
    overrides: list[str],
    on: str,
    nodes: int,
    gpus_per_node: int | None = None,
    run_dir: Path | None = None,
    out: Path | None = None,
) -> str:
    """The text of a launch file.

    Args:
        config_path: The job's YAML file, by the path that it has on every machine.
        overrides: ``section.key=value`` each.
        on: One of `TARGETS`.
        nodes: Machines.
        gpus_per_node: Processes on each; None: as many as the layout asks for.
        run_dir: The run folder, seen by all machines; None: ``runs/NAME`` in the folder that the target shares.
        out: What the file will be called, which its first lines say; None: a name made of the config's and the target.

    Raises:
        RequestError: The config is refused, the target is unknown, or its processes are not those of the layout.
    """
    target = _target(on)
    config = load_config(config_path, overrides)
    gpus_per_node = gpus_per_node or _gpus_per_node(config, nodes)
    num_processes = nodes * gpus_per_node
    check_world(config, num_processes, f"{nodes} machines of {gpus_per_node} GPUs are {num_processes} processes")
    folder = run_dir or Path(config.run or Path(target.shared, "runs", config_path.stem))
    train = ["headrace", "train", str(config_path), *overrides, "--run-dir", str(folder)]
    template = files(__package__).joinpath("launch_files", f"{on}{target.suffix}.in").read_text()
    return _LaunchTemplate(template).substitute(
        file=out or f"{config_path.stem}{target.suffix}",
        name=re.sub("[^a-z0-9]+", "-", config_path.stem.lower()).strip("-") or "headrace",
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        train=shlex.join(train),
        train_list=_python_list(train),
        version=version("headrace"),
    )


def write_launch_file(
    out: Path | None,
    config_path: Path,
    overrides: list[str],
    on: str,
    nodes: int,
    gpus_per_node: int | None = None,
    run_dir: Path | None = None,
) -> Path | str:
    """Writes what `launch_file` makes.

    Returns:
        ``out``, or the text where there is no ``out``.

    Raises:
        RequestError: As `launch_file`, or ``out`` cannot be written.
    """
    text = launch_file(config_path, overrides, on, nodes, gpus_per_node, run_dir, out)
    if out is None:
        return text
    try:
        out.write_text(text)
    except OSError as error:
        raise RequestError(f"{out} cannot be written: {error.strerror}; choose another --out") from None
    return out


def _target(on: str) -> Target:
    if on not in TARGETS:
        near = get_close_matches(on, TARGETS, n=1, cutoff=0.0)[0]
        raise RequestError(f"there is no launch file for {on!r}; the nearest is {near}, known are {', '.join(TARGETS)}")
    return TARGETS[on]


def _gpus_per_node(config: Config, nodes: int) -> int:
    parallel = config.parallel
    stages = Wanted(**parallel.model_dump()).num_ranks
    if stages is None:
        raise RequestError(
            "parallel.pp is left to the planner, so the layout names no number of processes; give --gpus-per-node"
        )
    num_ranks = stages * (parallel.dp or 1) * (parallel.tp or 1)
    if num_ranks % nodes:
        raise RequestError(
            f"the layout's {num_ranks} processes cannot be shared out evenly over {nodes} machines; "
            "give other --nodes, or change parallel"
        )
    return num_ranks // nodes


def _python_list(words: list[str]) -> str:
    """A word a line, as a formatter leaves it."""
    quoted = ("    " + json.dumps(word, ensure_ascii=False) + ",\n" for word in words)
    return f"[\n{''.join(quoted)}]"
