"""Start weights and buffers of a part are those of its place in the model, whatever the layout."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from headrace.chain.build import ModelSource
from tests.chain import models


def gathered(source: ModelSource, bounds: list[int]) -> dict[str, Tensor]:
    copies = {copy for copy, _ in source.anatomy.tied}
    parts = models.cut(source, bounds)
    return {n: p.detach() for part in parts for n, p in part.named_parameters() if n not in copies}


@pytest.mark.parametrize("name", models.SETTINGS)
def test_start_weights_are_the_same_for_every_cut(name: str) -> None:
    """pytorch#139304, torchtitan#514."""
    source = ModelSource(models.variant(name), seed=7)
    whole = gathered(source, [0, 5])
    assert list(whole) == list(source.anatomy.parameter_names)
    for bounds in models.every_bounds(3):
        got = gathered(source, bounds)
        assert got.keys() == whole.keys()
        assert all(torch.equal(got[n], value) for n, value in whole.items())


@pytest.mark.parametrize("name", models.SETTINGS)
def test_no_two_layers_start_equal_and_another_seed_starts_elsewhere(name: str) -> None:
    source = ModelSource(models.variant(name), seed=7)
    start, other = gathered(source, [0, 5]), gathered(ModelSource(source.config, seed=8), [0, 5])
    path = source.anatomy.layers_path
    for parameter in (n for n in start if n.startswith(f"{path}.0.")):
        layers = [start[parameter.replace(f"{path}.0.", f"{path}.{i}.")] for i in range(3)]
        constant = bool((layers[0] == layers[0].flatten()[0]).all())  # Norms and biases start so by their class.
        for a, b in ((0, 1), (1, 2), (0, 2)):
            assert torch.equal(layers[a], layers[b]) == constant, parameter
        assert torch.equal(other[parameter], start[parameter]) == constant, parameter


@pytest.mark.parametrize("name", models.SETTINGS)
def test_start_weights_are_spread_as_transformers_spreads_them(name: str) -> None:
    """Constants are the same constants; drawn ones have the same width, within 5 standard errors of a few values."""
    config = models.variant(name)
    torch.manual_seed(3)
    plain = dict(AutoModelForCausalLM.from_config(config).named_parameters())
    for parameter, value in gathered(ModelSource(config), [0, 5]).items():
        wanted = plain[parameter].detach()
        if bool((wanted == wanted.flatten()[0]).all()):
            assert torch.equal(value, wanted), parameter
        else:
            error = 5 * float(wanted.std()) / (2 * wanted.numel()) ** 0.5
            assert abs(float(value.std() - wanted.std())) < 1.5 * error, parameter


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("drawn", [True, False])
@pytest.mark.parametrize("name", [*models.SETTINGS, "falcon alibi"])
def test_buffers_of_every_part_are_those_of_plain_transformers(
    name: str, drawn: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    """LlamaFactory#10820, SkyRL#1709, torchtitan#201: rotary frequencies are in no file, and stay float32."""
    config = models.variant(name)
    whole = models.moved(config, dtype)
    if not drawn:
        whole.save_pretrained(tmp_path)
    source = ModelSource(config, None if drawn else tmp_path, dtype)
    buffers = dict(whole.named_buffers())
    for part in models.cut(source, [0, 1, 3, 5]):
        for buffer_name, buffer in part.model.named_buffers():
            assert buffer.dtype == buffers[buffer_name].dtype
            assert torch.equal(buffer, buffers[buffer_name]), buffer_name


def test_building_draws_nothing_from_the_callers_generator() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    models.cut(ModelSource(models.variant("llama")), [0, 2, 5])
    assert torch.equal(torch.rand(3), wanted)
