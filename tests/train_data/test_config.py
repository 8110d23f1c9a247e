"""What a config file may say, and the sentence for everything else."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.errors import RequestError
from headrace.train.config import Config, known_keys, load_config

EXAMPLE = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
SMALL: dict[str, Any] = {
    "model": {"config": {"model_type": "llama", "hidden_size": 32}},
    "data": {"text": "stdlib", "sequence_length": 16},
    "parallel": "auto",
    "train": {"steps": 3, "batch": 8},
}


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def test_what_the_file_says_is_what_the_job_is(job: Path) -> None:
    config = load_config(job)
    assert config.model.config == {"model_type": "llama", "hidden_size": 32}
    assert (config.data.text, config.data.sequence_length, config.train.steps) == ("stdlib", 16, 3)
    assert set(config.parallel.model_dump().values()) == {None, False}
    assert config.run is None


def test_the_example_is_a_job() -> None:
    assert load_config(EXAMPLE).parallel.pp == 2


def test_a_config_survives_being_written_and_read_again(job: Path) -> None:
    config = load_config(job, ["parallel.cuts=[1, 2]", "train.clip_norm=null", "model.dtype=bfloat16"])
    assert Config.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config


def test_overrides_win_over_the_file_and_the_last_wins(job: Path) -> None:
    config = load_config(job, ["train.steps=5", "train.steps=7", "run=runs/r3", "model.config.hidden_size=64"])
    assert (config.train.steps, config.run) == (7, "runs/r3")
    assert config.model.config == {"model_type": "llama", "hidden_size": 64}


def test_override_values_are_yaml(job: Path) -> None:
    config = load_config(job, ["train.learning_rate=3e-3", "train.betas=[0.8, 0.9]", "track.tensorboard=true"])
    assert (config.train.learning_rate, config.train.betas) == (0.003, (0.8, 0.9))
    assert config.track.tensorboard


def test_a_part_of_the_layout_can_be_fixed_where_the_file_says_auto(job: Path) -> None:
    config = load_config(job, ["parallel.pp=3", "parallel.cuts=[3, 2, 3]"])
    assert (config.parallel.pp, config.parallel.cuts, config.parallel.microbatches) == (3, (3, 2, 3), None)
    assert load_config(job, ["parallel.pp=3", "parallel=auto"]).parallel.pp is None


def test_a_plain_string_is_a_models_path(job: Path) -> None:
    config = load_config(job, ["model=some/folder", "model.dtype=bfloat16"])
    assert (config.model.path, config.model.config, config.model.dtype) == ("some/folder", None, "bfloat16")


def test_a_models_config_may_lie_in_a_json_file(job: Path, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": 8}))
    overrides = [f"model.config={tmp_path}/model.json", "model.config.n_embd=16"]
    assert load_config(job, overrides[:1]).model.config == {"model_type": "gpt2", "n_embd": 8}
    assert load_config(job, overrides).model.config == {"model_type": "gpt2", "n_embd": 16}


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("train.stpes=3", "override 'train.stpes=3': unknown key train.stpes; the nearest known key is train.steps"),
        ("steps=3", "unknown key steps; the nearest known key is train.steps"),
        ("train.sequence_length=4", "the nearest known key is data.sequence_length"),
        ("zzzz=4", "unknown key zzzz; known here are model, data, parallel, train, checkpoint, track, run"),
        ("train.batch=0", "train.batch is 0; it must be greater than or equal to 1"),
        ("train.batch=true", "train.batch is true; it must be a valid integer"),
        ("train.batch='8'", 'train.batch is "8"; it must be a valid integer'),
        (
            "train.evaluate_every=5",
            "train.evaluate_every is 5, but nothing is held out to evaluate; set data.validation",
        ),
        ("train.steps.a=5", "override 'train.steps.a=5': train.steps is"),
        ("train=3", "train is 3; it must hold `key: value` pairs"),
        ("train.clip_norm=.nan", "train.clip_norm is NaN; it must be a finite number"),
        ("train.betas=[0.9, a]", 'train.betas.1 is "a"; it must be a valid number'),
        ("parallel.cuts=[2, -1]", "parallel.cuts.1 is -1; it must be greater than or equal to 0"),
        ("model.dtype=float16", "model.dtype is \"float16\"; it must be 'float32' or 'bfloat16'"),
        ("model.path=gpt2", "model takes exactly one of config, path, and config and path are given"),
        ("data.text=null", "data takes exactly one of text, jsonl, dataset, tokens, and none is given"),
        ("data.jsonl=a.jsonl", "text and jsonl are given; set data.text: null to drop it"),
        ("model.config.model_type=null", "model.config needs model_type, such as model_type: llama"),
        ("model.config=/none.json", "/none.json cannot be read: No such file or directory"),
        ("data.vocab_size=256", "data.vocab_size is 256; it must be greater than or equal to 257"),
        ("train.steps", "override 'train.steps' is not of the form section.key=value"),
        ("train..steps=3", "override 'train..steps=3' is not of the form section.key=value"),
        ("train.batch=[", "override 'train.batch=[' line 1: expected the node content"),
    ],
)
def test_a_bad_override_gets_one_sentence(job: Path, override: str, complaint: str) -> None:
    with pytest.raises(RequestError, match=re.escape(complaint)) as raised:
        load_config(job, [override])
    assert "\n" not in str(raised.value)


def test_vocabularies_that_disagree_are_refused(job: Path) -> None:
    with pytest.raises(
        RequestError, match=r"data.vocab_size is 300 and model.config.vocab_size is 400; make them equal"
    ):
        load_config(job, ["data.vocab_size=300", "model.config.vocab_size=400"])
    with pytest.raises(RequestError, match=r"the tokenizer of gpt2 is taken; leave data.vocab_size out"):
        load_config(job, ["data.vocab_size=300", "data.tokenizer=gpt2"])


def test_selective_recomputation_of_compiled_layers_is_refused(job: Path) -> None:
    with pytest.raises(RequestError, match=r"set parallel.recompute to full or none, or train.compile to false"):
        load_config(job, ["train.compile=true", "parallel.recompute=selective"])
    assert load_config(job, ["train.compile=true", "parallel.recompute=full"]).parallel.recompute == "full"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("train: {steps: 3\nmodel: x", "job.yaml line 2: "),
        ("train: {}\nrun: a\nrun: b\n", "job.yaml line 3: 'run' is given twice"),
        ("- a\n", "job.yaml holds no `key: value` pairs"),
        ("", "job.yaml holds no `key: value` pairs"),
        ("a: \x01", "job.yaml is not YAML: "),
        ("model: x\ndata: {text: stdlib, sequence_length: 4}\ntrain: {steps: 3}\n", "job.yaml: train.batch is missing"),
        ("model: x\ntrain: {steps: 3, batch: 2}\n", "job.yaml: data is missing"),
        ("model: x\ndata: {text: a, sequence_length: 4}\ntrain: {stepz: 3, batch: 2}\n", "unknown key train.stepz"),
    ],
)
def test_a_broken_file_gets_one_sentence(job: Path, text: str, complaint: str) -> None:
    job.write_text(text)
    with pytest.raises(RequestError, match=re.escape(complaint)):
        load_config(job)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"none.yaml cannot be read: No such file or directory"):
        load_config(tmp_path / "none.yaml")


def test_bytes_that_are_no_text_are_refused(job: Path) -> None:
    job.write_bytes(b"train: \xff\n")
    with pytest.raises(RequestError, match=r"job.yaml is not YAML: "):
        load_config(job)


def test_every_key_is_documented() -> None:
    assert [key for key, text in known_keys().items() if not text.strip()] == []


def test_no_new_keys() -> None:
    """A key more is a decision, so it is made here too."""
    sections = {
        "model": "config path dtype",
        "data": "text jsonl dataset tokens field tokenizer vocab_size sequence_length seed validation_sequences",
        "parallel": "dp pp tp chunks schedule microbatches cuts recompute post_validation loss_chunks offload",
        "train": "steps batch optimizer learning_rate min_learning_rate_ratio warmup_steps betas weight_decay clip_norm"
        " autocast compile freeze seed evaluate_every timeout_s",
        "checkpoint": "every keep",
        "track": "tensorboard",
    }
    keys = [f"{section}.{key}" for section, names in sections.items() for key in names.split()]
    assert set(known_keys()) == {*keys, *sections, "run"}


def test_reading_a_config_needs_no_torch() -> None:
    code = "import sys, headrace.train.config; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
