"""Folders of save_pretrained: each part gets exactly its own values, and a broken folder is one sentence."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from headrace.chain.build import ModelSource, config_of
from headrace.errors import RequestError
from tests.chain import models

BOUNDS = ([0, 5], [0, 1, 2, 3, 4, 5], [0, 3, 5])


@pytest.mark.parametrize(("shard", "dtype"), [("5GB", torch.float32), ("12KB", torch.bfloat16)])
@pytest.mark.parametrize("name", models.VARIANTS)
def test_each_part_reads_exactly_its_own_values(name: str, shard: str, dtype: torch.dtype, tmp_path: Path) -> None:
    whole = models.moved(models.variant(name), dtype)
    whole.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "12KB")
    source = ModelSource(config_of(str(tmp_path)), tmp_path, dtype)
    weights, owners = dict(whole.named_parameters()), dict(source.anatomy.tied)
    for bounds in BOUNDS:
        held = [pair for part in models.cut(source, bounds) for pair in part.named_parameters()]
        assert {owners.get(n, n) for n, _ in held} == weights.keys()
        for parameter_name, parameter in held:
            assert parameter.dtype == dtype
            assert parameter.requires_grad
            assert torch.equal(parameter, weights[owners.get(parameter_name, parameter_name)]), parameter_name


def test_a_mixture_is_saved_expert_by_expert_and_read_whole(tmp_path: Path) -> None:
    models.moved(models.variant("mixtral")).save_pretrained(tmp_path)
    keys = load_file(tmp_path / "model.safetensors").keys()
    assert any(".experts.3." in key for key in keys), "this folder does not show what it is for"


def test_a_folder_in_bfloat16_is_read_as_the_dtype_that_was_asked_for(tmp_path: Path) -> None:
    models.moved(models.variant("llama"), torch.bfloat16).save_pretrained(tmp_path)
    wanted = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    parts = models.cut(ModelSource(config_of(str(tmp_path)), tmp_path), [0, 2, 5])
    for name, parameter in (pair for part in parts for pair in part.named_parameters()):
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, wanted.get_parameter(name))


def test_a_file_that_is_written_afterwards_changes_nothing(tmp_path: Path) -> None:
    whole = models.moved(models.variant("llama"))
    whole.save_pretrained(tmp_path)
    part = ModelSource(config_of(str(tmp_path)), tmp_path).build(0, 5)
    file = tmp_path / "model.safetensors"
    with file.open("r+b") as stream:
        stream.write(bytes(file.stat().st_size))
    assert all(torch.equal(p, whole.get_parameter(n)) for n, p in part.named_parameters())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    models.moved(models.variant("llama")).save_pretrained(tmp_path)
    return tmp_path


def read(folder: Path, bounds: tuple[int, int] = (1, 3)) -> None:
    ModelSource(config_of(str(folder)), folder).build(*bounds)


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    state = load_file(folder / "model.safetensors") | {k.replace("__", "."): v for k, v in tensors.items()}
    kept = {k: v for k, v in state.items() if v is not None}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def refused(folder: Path, text: str, bounds: tuple[int, int] = (1, 3)) -> None:
    with pytest.raises(RequestError, match=text) as caught:
        read(folder, bounds)
    assert "\n" not in str(caught.value)


def test_a_missing_tensor_is_named_by_the_part_that_needs_it(folder: Path) -> None:
    change(folder, model__layers__1__mlp__up_proj__weight=None)
    refused(folder, r"lacks 1 tensors of this model, the first is model\.layers\.1\.mlp\.up_proj\.weight")
    read(folder, (3, 5))  # Other parts do without it.


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder: Path) -> None:
    change(folder, model__layers__0__mlp__up_proj__weight=torch.ones(48, 31))
    refused(folder, r"layers\.0\.mlp\.up_proj\.weight has shape \(48, 31\), the configuration wants \(48, 32\)")


def test_an_expert_that_is_missing_is_noticed(tmp_path: Path) -> None:
    models.moved(models.variant("mixtral")).save_pretrained(tmp_path)
    key = next(k for k in load_file(tmp_path / "model.safetensors") if ".layers.0." in k and ".experts.2." in k)
    change(tmp_path, **{key: None})
    refused(tmp_path, r"layers\.0\.")


def test_a_truncated_file_is_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(folder, r"model\.safetensors cannot be read: ")
    file.write_bytes(b"")
    refused(folder, r"model\.safetensors cannot be read: ")


def test_a_folder_without_safetensors_says_what_to_do(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").touch()
    refused(folder, r"holds no model\.safetensors; save the model with save_pretrained")


@pytest.mark.parametrize("text", ["", "[]", '{"weight_map": 3}', '{"metadata": {}}'])
def test_a_broken_index_is_named(folder: Path, text: str) -> None:
    (folder / "model.safetensors.index.json").write_text(text)
    refused(folder, r"index\.json is no index of safetensors files")


def test_a_shard_that_is_missing_is_named(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, r"model-00002-of-00002\.safetensors cannot be read")
