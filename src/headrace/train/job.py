"""A job: what was asked for, worked out as far as every process needs it, and kept in the run folder."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig, PretrainedConfig

from headrace.chain.build import ModelSource, named_config
from headrace.cluster import Cluster, this_machine
from headrace.costs import LinkCosts
from headrace.engine.profile import Profiler
from headrace.errors import RequestError
from headrace.plan import Plan, Wanted, make_plan
from headrace.simulate.trace import timeline_to_trace
from headrace.train.config import Config
from headrace.train.data import Prepared, TokenData, prepare
from headrace.train.files import RunFiles, write_json

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Job:
    """A prepared job; the launcher makes it, every rank loads the same one.

    Attributes:
        config: What was asked for, resolved.
        files: The run folder.
        source: The model.
        prepared: Its data.
        plan: How it runs.
    """

    config: Config
    files: RunFiles
    source: ModelSource
    prepared: Prepared
    plan: Plan

    def data(self) -> TokenData:
        """The sequences in their order."""
        return TokenData(self.prepared.folder, self.config.data.sequence_length, self.config.data.seed)

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with, else it is another job's."""
        config = self.source.config.to_dict()
        for name in ("transformers_version", "architectures", "dtype", "_name_or_path"):
            config.pop(name, None)
        return {
            "model": config,
            "dtype": self.config.model.dtype,
            "data": self.prepared.sha256,
            "data_seed": self.config.data.seed,
            "sequence_length": self.config.data.sequence_length,
            "train_seed": self.config.train.seed,
        }


def prepare_job(config: Config, run_dir: Path, num_ranks: int | None, progress: Progress) -> Job:
    """Prepares data, measures costs, plans, and writes all of it into the run folder.

    Args:
        config: The job.
        run_dir: The run folder; exists.
        num_ranks: Processes that were started by someone else, which the plan must use; None leaves it free.
        progress: Told how far long work is.

    Raises:
        RequestError: Anything in the request that cannot be met.
    """
    files = RunFiles(run_dir)
    config = _with_ranks(config, num_ranks)
    model_config, folder = _model_config(config)
    source = make_source(config, model_config, folder)
    source.anatomy  # noqa: B018 (refuses an unsupported model before the data is read)
    prepared = prepare(config, run_dir.parent / ".data", getattr(model_config, "vocab_size", None), progress)
    plan = _plan(config, source, files, progress)
    files.config.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    write_json(files.plan, plan.to_json())
    write_json(files.job, {"data": str(prepared.folder.resolve()), "model": model_config.to_dict()})
    return Job(config, files, source, prepared, plan)


def load_job(run_dir: Path) -> Job:
    """The job that `prepare_job` left in ``run_dir``."""
    files = RunFiles(run_dir)
    config = Config.model_validate(yaml.safe_load(files.config.read_text()))
    job = json.loads(files.job.read_text())
    settings = job["model"]
    model_config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    folder = Path(config.model.path) if config.model.path else None
    source = make_source(config, model_config, folder)
    plan = Plan.from_json(json.loads(files.plan.read_text()))
    return Job(config, files, source, Prepared.load(Path(job["data"])), plan)


def make_source(config: Config, model_config: PretrainedConfig, folder: Path | None) -> ModelSource:
    """The model that ``config`` asks for."""
    return ModelSource(model_config, folder, getattr(torch, config.model.dtype), config.train.seed)


def _model_config(config: Config) -> tuple[PretrainedConfig, Path | None]:
    if config.model.config is not None:
        settings = dict(config.model.config)
        if settings.get("vocab_size") is None and config.data.vocab_size is not None:
            settings["vocab_size"] = config.data.vocab_size
        return named_config(settings.pop("model_type"), **settings), None
    folder = Path(config.model.path or "")
    if not (folder / "config.json").is_file():
        raise RequestError(
            f"model.path {folder} is no Hugging Face folder: it has no config.json; "
            "give a folder that save_pretrained or a download has made"
        )
    try:
        return AutoConfig.from_pretrained(folder), folder
    except (ValueError, OSError) as error:
        raise RequestError(f"{folder}/config.json was refused: {str(error).splitlines()[0]}") from None


def _with_ranks(config: Config, num_ranks: int | None) -> Config:
    """Holds the plan to the processes that are there."""
    if num_ranks is None:
        return config
    sizes = config.parallel.dp or 1, config.parallel.pp, config.parallel.tp or 1
    wanted = sizes[0] * (sizes[1] or 1) * sizes[2]
    if sizes[1] is None and num_ranks % wanted == 0:
        return config.model_copy(
            update={"parallel": config.parallel.model_copy(update={"pp": num_ranks // wanted})}
        )
    if wanted != num_ranks:
        raise RequestError(
            f"{num_ranks} processes were started, but parallel asks for dp={sizes[0]} x pp={sizes[1] or 'free'} x "
            f"tp={sizes[2]} = {wanted}; start {wanted} processes, or change parallel"
        )
    return config


def machine_for(config: Config) -> Cluster:
    """This machine's devices for the ranks that ``config`` names, one where it names none."""
    parallel = config.parallel
    stages = parallel.pp or (len(parallel.cuts) if parallel.cuts else None)
    return this_machine(stages, dtype=config.model.dtype)


def _plan(config: Config, source: ModelSource, files: RunFiles, progress: Progress) -> Plan:
    parallel = config.parallel
    wanted = Wanted(**parallel.model_dump())
    chain, cluster = source.chain(), machine_for(config)
    wanted.check(chain, cluster, config.train.batch)  # Before the minutes that measuring may take.
    device = torch.device("cuda" if cluster.devices[0].kind == "cuda" else "cpu")
    link = LinkCosts(cluster.link.latency_s, cluster.link.bytes_per_s)
    profiler = Profiler(source, config.data.sequence_length, device, link, progress)
    rows, length = config.train.batch, config.data.sequence_length
    plan, simulation = make_plan(chain, profiler, cluster, rows, length, wanted)
    write_json(files.predicted_timeline, timeline_to_trace(simulation.timeline))
    return plan
