"""A job: what was asked for, worked out as far as every process needs it, and kept in the run folder."""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

from headrace.chain import Chain
from headrace.chain.build import ModelSource, named_config
from headrace.chain.check import require_exact
from headrace.cluster import Cluster, num_cores, this_machine
from headrace.costs import Costs, LinkCosts
from headrace.engine.link import with_measured_link
from headrace.engine.local_update import refuse_clipping
from headrace.engine.profile import Profiler
from headrace.errors import RequestError
from headrace.plan import Plan, Wanted, is_asynchronous, make_plan
from headrace.simulate import Simulation
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
        data = self.config.data
        return TokenData(self.prepared.folder, data.sequence_length, data.seed, data.validation_sequences)

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with, else it is another job's."""
        config = self.source.config.to_dict()
        for name in ("transformers_version", "architectures", "dtype", "_name_or_path"):
            config.pop(name, None)
        held_out = self.config.data.validation_sequences
        return {
            **({"validation_sequences": held_out} if held_out else {}),
            "model": config,
            "dtype": self.config.model.dtype,
            "data": self.prepared.sha256,
            "data_seed": self.config.data.seed,
            "sequence_length": self.config.data.sequence_length,
            "train_seed": self.config.train.seed,
            "autocast": self.config.train.autocast,
            "freeze": self.config.train.freeze or None,
        }


def prepare_job(config: Config, run_dir: Path, num_ranks: int | None, progress: Progress) -> tuple[Job, Simulation]:
    """Prepares data, measures costs and plans; leaves the run folder as it is.

    Args:
        config: The job.
        run_dir: The run folder.
        num_ranks: Processes that were started by someone else, which the plan must use; None leaves it free.
        progress: Told how far long work is.

    Returns:
        The job, and what it is predicted to do.

    Raises:
        RequestError: Anything in the request that cannot be met.
    """
    config = _with_ranks(config, num_ranks)
    _check_schedule(config)
    model_config, folder = _model_config(config)
    source = make_source(config, model_config, folder)
    torch.set_num_threads(1)  # For the check, whose model is so small that threads would only wait for each other.
    require_exact(model_config)
    prepared = prepare(config, run_dir.parent / ".data", getattr(model_config, "vocab_size", None), progress)
    _, plan, simulation = _plan(config, source, progress)
    return Job(config, RunFiles(run_dir), source, prepared, plan), simulation


def save_job(job: Job, simulation: Simulation) -> None:
    """Writes what every rank needs into the run folder; its ``config.yaml``, which makes it a run, comes last.

    Raises:
        RequestError: The folder cannot be written.
    """
    files = job.files
    try:
        write_json(files.plan, job.plan.to_json())
        write_json(files.predicted_timeline, timeline_to_trace(simulation.timeline))
        write_json(files.job, {"data": str(job.prepared.folder.resolve()), "model": job.source.config.to_dict()})
        files.config.write_text(yaml.safe_dump(job.config.model_dump(mode="json"), sort_keys=False))
    except OSError as error:
        raise RequestError(
            f"the run folder {files.run_dir} cannot be written: {error.strerror}; choose another --run-dir"
        ) from None


def load_job(run_dir: Path) -> Job:
    """The job that `save_job` left in ``run_dir``.

    Raises:
        RequestError: There is none.
    """
    files = RunFiles(run_dir)
    if not files.config.is_file():
        raise RequestError(f"{run_dir} holds no run; give the folder that `headrace train` wrote")
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
    dtype = getattr(torch, config.model.dtype)
    autocast = torch.bfloat16 if config.train.autocast else None
    backend = "inductor" if config.train.compile else None
    return ModelSource(model_config, folder, dtype, config.train.seed, config.train.freeze, autocast, backend)


def _check_schedule(config: Config) -> None:
    """Refuses what the schedule's updates cannot give, before anything that takes time."""
    schedule = config.parallel.schedule
    if schedule is not None and is_asynchronous(schedule):
        refuse_clipping(schedule, config.train.clip_norm)


def _model_config(config: Config) -> tuple[PretrainedConfig, Path | None]:
    model_config, folder = _read_model_config(config)
    length, limit = config.data.sequence_length, getattr(model_config, "max_position_embeddings", None)
    if limit is not None and length > limit:
        raise RequestError(
            f"data.sequence_length is {length}, but the model knows {limit} positions; set data.sequence_length to "
            f"{limit} or less, or model.config.max_position_embeddings to {length}"
        )
    return model_config, folder


def _read_model_config(config: Config) -> tuple[PretrainedConfig, Path | None]:
    if config.model.config is not None:
        settings = dict(config.model.config)
        if settings.get("vocab_size") is None and config.data.vocab_size is not None:
            settings["vocab_size"] = config.data.vocab_size
        _refuse_misspelt(settings)
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


def _refuse_misspelt(settings: dict[str, Any]) -> None:
    """Transformers takes any key; one that nearly is a known key is a mistake that would train another model."""
    if settings["model_type"] not in CONFIG_MAPPING:
        return
    config_class = CONFIG_MAPPING[settings["model_type"]]
    known = {*(field.name for field in fields(config_class)), *config_class.attribute_map, "model_type"}
    for key in settings.keys() - known:
        if near := get_close_matches(key, known, n=1, cutoff=0.8):
            raise RequestError(f"unknown key model.config.{key}; the nearest known key is model.config.{near[0]}")


def _with_ranks(config: Config, num_ranks: int | None) -> Config:
    """Gives the pipeline the processes that are there, where its length was left open."""
    parallel = config.parallel
    if num_ranks is None or parallel.pp or parallel.cuts:
        return config
    stages = num_ranks // ((parallel.dp or 1) * (parallel.tp or 1))
    return config.model_copy(update={"parallel": parallel.model_copy(update={"pp": stages})})


def machine_for(config: Config) -> Cluster:
    """This machine's devices for the ranks that ``config`` names, one where it names none."""
    parallel = config.parallel
    stages = Wanted(**parallel.model_dump()).num_ranks
    return with_measured_link(this_machine(stages, dtype=config.model.dtype))


def plan_job(config: Config, progress: Progress) -> tuple[Chain, Plan, Simulation]:
    """Measures costs on this machine and plans; touches neither data nor disk.

    Raises:
        RequestError: The model is not supported, or no plan meets the request.
    """
    _check_schedule(config)
    model_config, folder = _model_config(config)
    return _plan(config, make_source(config, model_config, folder), progress)


def profile_job(config: Config, rows: int, progress: Progress) -> tuple[Chain, Costs]:
    """Measures what each layer of the job's model costs at micro-batches of ``rows`` rows."""
    model_config, folder = _model_config(config)
    source = make_source(config, model_config, folder)
    return source.chain(), _profiler(config, source, machine_for(config), progress)(rows)


def _plan(config: Config, source: ModelSource, progress: Progress) -> tuple[Chain, Plan, Simulation]:
    wanted = Wanted(**config.parallel.model_dump())
    chain, cluster = source.chain(), machine_for(config)
    wanted.check(chain, cluster, config.train.batch)  # Before the minutes that measuring may take.
    profiler = _profiler(config, source, cluster, progress)
    plan, simulation = make_plan(chain, profiler, cluster, config.train.batch, config.data.sequence_length, wanted)
    return chain, plan, simulation


def _profiler(config: Config, source: ModelSource, cluster: Cluster, progress: Progress) -> Profiler:
    torch.set_num_threads(max(1, num_cores() // len(cluster.devices)))
    device = torch.device("cuda" if cluster.devices[0].kind == "cuda" else "cpu")
    link = LinkCosts(cluster.link.latency_s, cluster.link.bytes_per_s)
    return Profiler(source, config.data.sequence_length, device, link, progress)
