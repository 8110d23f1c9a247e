"""`headrace sample`: what plain transformers makes of the exported model, or one sentence where nothing can be made."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from headrace import cli
from tests.train.jobs import HEADRACE, Whole, run

Verb = Callable[..., str]


@pytest.fixture
def sample(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Verb:
    """Runs the verb with these words; answers what it prints where it succeeds, else its one sentence."""

    def sampled(*words: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["headrace", "sample", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert ended.value.code == code, said.err
        assert (said.out, said.err.count("\n")) == ("", 1) if code else said.err == ""
        return said.err or said.out

    return sampled


def likeliest(run_dir: Path, ids: list[int], num_tokens: int) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(run_dir / "export").eval()
    prompt = torch.tensor([ids])
    end = AutoTokenizer.from_pretrained(run_dir / "export").eos_token_id
    found = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=num_tokens, do_sample=False, eos_token_id=end
    )
    return found[0, len(ids) :].tolist()


@pytest.fixture
def bare(llama: Whole, tmp_path: Path) -> Path:
    """The same run as if it had been trained on ready tokens: its data has no tokenizer."""
    bare = tmp_path / "bare"
    shutil.copytree(llama.run_dir, bare)
    job = json.loads((bare / "job.json").read_text())
    shutil.copytree(job["data"], tmp_path / "data", ignore=shutil.ignore_patterns("tokenizer"))
    (bare / "job.json").write_text(json.dumps(job | {"data": str(tmp_path / "data")}))
    return bare


def test_a_run_goes_on_from_a_text_as_plain_transformers_does(llama: Whole) -> None:
    before = sorted(llama.run_dir.rglob("*"))
    done = run([*HEADRACE, "sample", llama.run_dir, "1 is the"], llama.job.parent)
    assert done.returncode == 0, done.stderr
    tokenizer = AutoTokenizer.from_pretrained(llama.run_dir / "export")
    ids = tokenizer("1 is the", add_special_tokens=False)["input_ids"]
    assert done.stdout == tokenizer.decode(ids + likeliest(llama.run_dir, ids, 16 - len(ids))) + "\n"
    assert done.stderr == ""
    assert sorted(llama.run_dir.rglob("*")) == before


def test_without_a_tokenizer_prompt_and_answer_are_token_ids(llama: Whole, bare: Path, sample: Verb) -> None:
    made = json.loads(sample(bare, "40 7 23", "--tokens", 5, "--json"))
    assert made["prompt_ids"] == [40, 7, 23]
    assert made["ids"] == likeliest(llama.run_dir, [40, 7, 23], 5)
    assert made["text"] == " ".join(map(str, made["prompt_ids"] + made["ids"]))
    assert made["checkpoint"] == "step-000006"
    assert "has no tokenizer; give the prompt as token ids, such as '12 7 300'" in sample(bare, "some text", code=2)
    assert "the prompt holds token 300, but the model knows 300 tokens" in sample(bare, "300", code=2)


def test_what_cannot_be_sampled_is_refused_in_one_sentence(llama: Whole, tmp_path: Path, sample: Verb) -> None:
    assert "holds no run; give the folder that `headrace train` wrote" in sample(tmp_path, "a", code=2)
    assert "the prompt is empty; give at least one word" in sample(llama.run_dir, "", code=2)
    assert "7 tokens" in (sentence := sample(llama.run_dir, "zyxwvut", "--tokens", 10, code=2)), sentence
    assert "10 more were asked for, but the model knows 16 positions; ask for 9 or fewer" in sentence
    assert "the temperature is -1.0" in sample(llama.run_dir, "a", "--temperature=-1", code=2)
    early = tmp_path / "early"
    shutil.copytree(llama.run_dir, early, ignore=shutil.ignore_patterns("checkpoints"))
    assert f"{early} holds no checkpoint; let it train to its first one" in sample(early, "a", code=2)
