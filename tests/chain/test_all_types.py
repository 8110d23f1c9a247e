"""A type that hangs, crashes or eats memory costs its own verdict and nothing else."""

import json
import os
import signal
import time

import pytest
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from typer.testing import CliRunner

from headrace import cli
from headrace.chain import all_types
from headrace.chain.all_types import check_all
from headrace.chain.check import Verdict
from headrace.errors import RequestError


def misbehave(name: str) -> Verdict:
    if name == "hangs":
        time.sleep(60)
    if name == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "exits":
        os._exit(3)
    if name == "eats":
        try:
            torch.ones(all_types.MOST_BYTES)
        except RuntimeError as error:
            return Verdict(name, False, 0, reason=f"no memory: {error}")
    return Verdict(name, True, 5)


def test_no_type_hangs_or_ends_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_types, "verdict_of", misbehave)
    monkeypatch.setattr(all_types, "LONGEST_S", 4.0)
    names = ["good", "hangs", "crashes", "exits", "eats", "good too"]
    told: list[tuple[int, int, str]] = []
    verdicts = check_all(names, lambda *progress: told.append(progress))
    assert [verdict.type for verdict in verdicts] == names
    assert [verdict.exact for verdict in verdicts] == [True, False, False, False, False, True]
    assert verdicts[1].reason == "its check took longer than 4 s"
    assert verdicts[2].reason == "its check ended the process (SIGSEGV)"
    assert verdicts[3].reason == "its check ended the process (exit 3)"
    assert "no memory" in (verdicts[4].reason or "")
    assert [done for done, *_ in told] == [1, 2, 3, 4, 5, 6]


EXPECTED = {
    "llama": None,
    "gpt-sw3": None,
    "gemma3_text": None,
    "gemma3": "gemma3 is several models in one; only its language model can be cut: take gemma3_text",
    "deepseek_v3": None,
    "jamba": None,
    "bart": "bart is an encoder-decoder; only causal language models can be cut",
    "gemma4_assistant": "the configuration of gemma4_assistant was refused: hidden_size_per_layer_input must be 0",
    "fuyu": "fuyu is several models in one; only its language model can be cut: take persimmon",
}


def test_verdicts_have_the_names_that_were_asked_for() -> None:
    for (name, reason), verdict in zip(EXPECTED.items(), check_all(EXPECTED), strict=True):
        assert verdict.type == name
        assert verdict.exact == (reason is None), verdict.reason
        assert (verdict.reason or "").startswith(reason or "")


def test_every_type_that_transformers_lists_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_types, "_guarded", lambda context, name, answer: Verdict(name, True, 5))
    assert {verdict.type for verdict in check_all()} == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def test_check_all_prints_one_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = [Verdict("llama", True, 5, 4), Verdict("bart", False, 0, reason="no")]
    monkeypatch.setattr(all_types, "check_all", lambda progress: verdicts)
    result = CliRunner().invoke(cli.app, ["check", "--all", "--json"])
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert (answer["num_types"], answer["num_exact"]) == (2, 1)
    assert answer["types"][1] == verdicts[1].to_json()


@pytest.mark.parametrize("arguments", [["check"], ["check", "llama", "--all"]])
def test_check_takes_a_model_or_all(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli.app, arguments)
    assert isinstance(result.exception, RequestError)
    assert str(result.exception) == "check takes either a MODEL, such as llama, or --all"
