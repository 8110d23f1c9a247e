"""The configuration of a job: what may stand in the YAML file, and what each key means.

The text under a field is its documentation everywhere: here, in ``--help`` and in the docs.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from headrace.chain.chain import RecomputeMode
from headrace.train.complaints import sentence
from headrace.train.overrides import apply_override, expand_shorthands, read_mapping

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]

DEFAULT_VOCAB_SIZE = 4096
MIN_VOCAB_SIZE = 257


class Section(BaseModel):
    """A part of the file: unknown keys are errors, values are not converted, nothing changes later."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class ModelConfig(Section):
    """Which model; ``model: some/folder`` is short for ``model: {path: some/folder}``."""

    config: dict[str, Any] | None = None
    """A new model: a mapping with `model_type` and the fields of its transformers config, or a JSON file of it."""
    path: str | None = None
    """An existing model: a Hugging Face folder, as `save_pretrained` or a download leaves it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the parameters and of what crosses a cut."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _exactly_one(self, "model", ("config", "path"))
        if self.config is not None and not isinstance(self.config.get("model_type"), str):
            raise ValueError("model.config needs model_type, such as model_type: llama")
        return self


class DataConfig(Section):
    """What is learnt: one source, cut into sequences of one length."""

    text: str | None = None
    """Text: `stdlib` (Python's standard library on this machine), a file, a folder or a glob; one document a file."""
    jsonl: str | None = None
    """A JSONL file or a glob; one document a line."""
    dataset: str | None = None
    """A name or a local folder for the `datasets` library, whose `train` split is read; one document a row."""
    tokens: str | None = None
    """Token ids: a .npy file, or a raw file of uint16 (uint32 where the vocabulary is above 65,536)."""
    field: str = "text"
    """The field of `jsonl` or `dataset` that holds the text."""
    tokenizer: str | None = None
    """A tokenizer's folder or hub name; absent: that of `model.path`, or a byte-pair vocabulary trained on the data."""
    vocab_size: Annotated[int, Field(ge=MIN_VOCAB_SIZE)] | None = None
    """Size of the trained vocabulary (256 bytes, the end of text, then merges); absent: the model's, or 4096."""
    sequence_length: Annotated[int, Field(ge=2)]
    """Tokens of one sequence."""
    seed: Seed = 0
    """Decides the order of the sequences."""
    validation_sequences: Annotated[int, Field(ge=0)] = 0
    """Sequences, spread evenly over the data, that are never learnt; the loss on them is the validation loss."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _exactly_one(self, "data", ("text", "jsonl", "dataset", "tokens"))
        return self


class ParallelConfig(Section):
    """How the work is cut; whatever is absent the planner chooses, and ``parallel: auto`` leaves it everything."""

    dp: Count | None = None
    """Data-parallel copies."""
    pp: Count | None = None
    """Ranks of one pipeline."""
    tp: Count | None = None
    """Tensor-parallel ranks of one stage."""
    chunks: Count | None = None
    """Stages on each rank."""
    schedule: str | None = None
    """The order of the work, such as `gpipe` or `1f1b`."""
    microbatches: Count | None = None
    """Pieces into which each copy's rows of a step are cut."""
    cuts: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)] | None = None
    """Transformer layers of each stage, such as [3, 2, 3]; the first also holds the embedding, the last the head."""
    recompute: RecomputeMode | None = None
    """What every layer computes again in the backward instead of keeping it: nothing, what is cheap, or all; absent:
    each layer as memory asks for it."""
    post_validation: bool = False
    """Whether a rank begins the next step before the norm of this one is known, and takes a step that must be clipped
    or skipped back; the same bits. Costs a copy of parameters and optimizer state: 12 bytes a parameter in float32."""
    loss_chunks: Count | None = None
    """Chunks of tokens for the loss, one chunk's logits alive at a time; absent: 1, or what memory asks for."""
    offload: bool = False
    """Whether activations wait for their backward in the host's memory; on CPUs, which have no other, nothing moves."""


class TrainConfig(Section):
    """The optimisation."""

    steps: Count
    """Optimizer steps."""
    batch: Count
    """Sequences of one step, over all ranks."""
    optimizer: Literal["adamw"] = "adamw"
    """The optimizer."""
    learning_rate: Positive = 3e-4
    """Its peak, reached after the warm-up."""
    min_learning_rate_ratio: Share = 0.1
    """Where the cosine ends, as a share of the peak."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps in which the learning rate grows linearly to its peak."""
    betas: Annotated[tuple[Share, Share], Field(strict=False)] = (0.9, 0.95)
    """AdamW's decay rates of the first and the second moment."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """AdamW's decoupled weight decay."""
    clip_norm: Positive | None = 1.0
    """Largest global norm of the gradient; null leaves it as it is."""
    autocast: Literal["bfloat16"] | None = None
    """Type in which matrix products are made (`torch.autocast`) while parameters keep `model.dtype`."""
    compile: bool = False
    """Whether layers run through `torch.compile`; their backward is then never split, so `zb-…` orders gain little."""
    freeze: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Parameters that do not learn, by name or by module, such as [model.embed_tokens, "model.layers.0.*"]."""
    seed: Seed = 0
    """Decides the first weights and every dropout mask."""
    evaluate_every: Annotated[int, Field(ge=0)] = 0
    """Steps between two measurements of the validation loss; 0 measures it at the end only."""
    timeout_s: Positive = 600.0
    """Seconds that a rank waits for another one within a step; then the run ends and the stuck rank is named."""


class CheckpointConfig(Section):
    """What is kept to go on from."""

    every: Annotated[int, Field(ge=0)] = 0
    """Steps between two checkpoints; 0 saves at the end only."""
    keep: Count = 2
    """Newest checkpoints that stay on disk."""


class TrackConfig(Section):
    """What is written beside `metrics.jsonl`."""

    tensorboard: bool = False
    """Whether TensorBoard events are written (needs the extra `headrace[tensorboard]`)."""


class Config(Section):
    """One job."""

    model: ModelConfig
    """The model."""
    data: DataConfig
    """The data."""
    parallel: ParallelConfig = ParallelConfig()
    """The layout: `auto`, or some of its parts."""
    train: TrainConfig
    """The optimisation."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Saving."""
    track: TrackConfig = TrackConfig()
    """Measurements."""
    run: str | None = None
    """The run folder; absent: `runs/` and the name of the file, with a number where that holds a run."""

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        return expand_shorthands(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _check_validation(self) -> Self:
        if self.train.evaluate_every and not self.data.validation_sequences:
            raise ValueError(
                f"train.evaluate_every is {self.train.evaluate_every}, but nothing is held out to evaluate; "
                "set data.validation_sequences, such as to 64"
            )
        return self

    @model_validator(mode="after")
    def _check_recompute(self) -> Self:
        if self.train.compile and self.parallel.recompute == "selective":
            raise ValueError(
                "parallel.recompute is selective, which chooses among a layer's ops, but train.compile makes them one; "
                "set parallel.recompute to full or none, or train.compile to false"
            )
        return self

    @model_validator(mode="after")
    def _check_vocabulary(self) -> Self:
        ours, models = self.data.vocab_size, (self.model.config or {}).get("vocab_size")
        existing = self.data.tokenizer or self.model.path
        if ours and existing and not self.data.tokens:
            raise ValueError(
                f"data.vocab_size is the size of a vocabulary trained on the data, but the tokenizer of {existing} "
                "is taken; leave data.vocab_size out"
            )
        if None not in (ours, models) and ours != models:
            raise ValueError(
                f"data.vocab_size is {ours} and model.config.vocab_size is {models}; make them equal or leave one out"
            )
        return self


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a job's YAML file.

    Args:
        path: The file.
        overrides: ``section.key=value`` each, with the value in YAML; they win over the file, the last one first.

    Raises:
        RequestError: The file cannot be read, or it or an override says something that is not allowed.
    """
    data = read_mapping(Path(path))
    for override in overrides or []:
        data = apply_override(expand_shorthands(data), override)
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise sentence(error, str(path), overrides or [], known_keys()) from None


def known_keys() -> dict[str, str]:
    """Every key that may be set, such as ``train.steps``, with its documentation."""
    keys: dict[str, str] = {}
    for name, field in Config.model_fields.items():
        keys[name] = field.description or ""
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            section = field.annotation.model_fields
            keys |= {f"{name}.{key}": inner.description or "" for key, inner in section.items()}
    return keys


def _exactly_one(section: Section, name: str, keys: tuple[str, ...]) -> None:
    """Raise unless one of ``keys`` is set."""
    given = [key for key in keys if getattr(section, key) is not None]
    if len(given) != 1:
        said = " and ".join(given) + " are given" if given else "none is given"
        out = f"; set {name}.{given[0]}: null to drop it" if given else ""
        raise ValueError(f"{name} takes exactly one of {', '.join(keys)}, and {said}{out}")
