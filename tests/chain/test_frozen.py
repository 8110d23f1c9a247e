import re

import pytest

from headrace.chain.build import ModelSource
from headrace.errors import RequestError
from tests.engine.jobs import tiny

LLAMA = tiny(num_hidden_layers=2)


def test_a_pattern_names_parameters_or_modules() -> None:
    names = ModelSource(LLAMA).anatomy.parameter_names
    assert ModelSource(LLAMA, freeze=("model",)).frozen == {n for n in names if n.startswith("model.")}
    assert ModelSource(LLAMA, freeze=("model.layers.1",)).frozen == {
        n for n in names if n.startswith("model.layers.1.")
    }
    assert ModelSource(LLAMA, freeze=("*norm", "lm_head.weight")).frozen == {
        n for n in names if "norm" in n or "lm" in n
    }
    assert ModelSource(LLAMA, freeze=("*_proj.weight",)).frozen == {n for n in names if "proj" in n}
    assert ModelSource(LLAMA).frozen == frozenset()


def test_a_tied_weight_has_two_names() -> None:
    tied = tiny(num_hidden_layers=2, tie_word_embeddings=True)
    assert ModelSource(tied, freeze=("lm_head",)).frozen == {"model.embed_tokens.weight"}
    assert ModelSource(tied, freeze=("model.embed_tokens",)).frozen == {"model.embed_tokens.weight"}


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (
            "model.embed_token",
            "train.freeze: no parameter is named model.embed_token; the nearest name is model.embed_tokens",
        ),
        ("model.layers.2", "train.freeze: no parameter is named model.layers.2; the nearest name is model.layers.1"),
        ("*", "train.freeze: * freezes all 21 parameters; leave some to learn"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(pattern: str, text: str) -> None:
    with pytest.raises(RequestError, match=re.escape(text)):
        ModelSource(LLAMA, freeze=(pattern,)).chain()


def test_the_chain_knows_what_learns_and_prices_frozen_layers_apart() -> None:
    chain = ModelSource(tiny(num_hidden_layers=4), freeze=("model.embed_tokens", "model.layers.0", "*.3.mlp")).chain()
    assert [layer.num_frozen for layer in chain.layers] == [97 * 32, 9280, 0, 0, 3 * 32 * 64, 0]
    assert chain.num_learning == chain.num_parameters - 97 * 32 - 9280 - 3 * 32 * 64
    kinds = [layer.kind for layer in chain.layers]
    assert len(set(kinds)) == 6  # Layers 1 and 2: only behind the second does a gradient go on.
    free = ModelSource(tiny(num_hidden_layers=4)).chain()
    assert free.num_learning == free.num_parameters
    assert len({layer.kind for layer in free.layers}) == 3
