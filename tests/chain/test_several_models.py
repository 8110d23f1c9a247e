"""A type that holds more than a language model is refused before anything of it is built."""

import pytest

from headrace.chain.build import config_of
from headrace.chain.check import check


@pytest.mark.parametrize(("name", "inner"), [("gemma3", "gemma3_text"), ("llama4", "llama4_text")])
def test_several_models_in_one_are_refused_by_the_name_of_the_language_model(name: str, inner: str) -> None:
    verdict = check(config_of(name))
    assert not verdict.exact
    assert verdict.reason == (f"{name} is several models in one; only its language model can be cut: take {inner}")
