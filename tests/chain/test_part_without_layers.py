"""A part of the chain may hold no layer at all: a stage of `cuts: [3, 0, 3]`, or what the profiler times as empty."""

from pathlib import Path

from transformers import AutoModelForCausalLM

from headrace.chain.build import ModelSource, named_config
from headrace.chain.small import small_config


def test_a_part_without_layers_is_built_from_a_folder_as_from_nothing(tmp_path: Path) -> None:
    config = small_config(named_config("llama"))
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert list(ModelSource(config, tmp_path).build(1, 1).named_parameters()) == []
