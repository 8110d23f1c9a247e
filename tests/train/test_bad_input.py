"""A request that cannot be met is one sentence and exit 2; nothing is left behind and nothing is lost."""

import json
import shutil
import socket
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist

from headrace import cli
from tests.train.jobs import Whole, train, write_hook, write_job

Refuse = Callable[..., str]


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Runs the command line with words that it must refuse; answers the one sentence."""

    def refused(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["headrace", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert (ended.value.code, said.out) == (2, "")
        assert said.err.startswith("headrace: ")
        assert said.err.count("\n") == 1
        return said.err

    return refused


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return write_job(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["train.stepz=3"], ["unknown key train.stepz", "train.steps"]),
        (["model.config.hiden_size=64"], ["unknown key model.config.hiden_size", "model.config.hidden_size"]),
        (["model.config.model_type=lama"], ["no model type 'lama'", "llama"]),
        (["model.config.model_type=vit"], ["vit is not a causal language model", "such as llama"]),
        (["model.config.model_type=t5"], ["t5 is an encoder-decoder"]),
        (["model.config={model_type: bert}"], ["bert "]),
        (["model.config.hidden_size=33"], ["hidden size (33)", "attention heads (4)"]),
        (["model.config.num_hidden_layers=many"], ["num_hidden_layers", "'many'"]),
        (["model.config.num_key_value_heads=3"], ["layers.0 of this llama fails", "change model.config"]),
        (["data.sequence_length=17"], ["sequence_length is 17", "16 positions"]),
        (["train.freeze=[model.layer.0]"], ["no parameter is named model.layer.0", "model.layers.0"]),
        (["parallel.pp=5"], ["5 stages", "4 layers", "pp=4"]),
        (["parallel.cuts=[2, 3]"], ["5", "4"]),
        (["parallel.microbatches=9"], ["9 micro-batches", "8 rows", "microbatches=8"]),
        (["parallel.dp=3"], ["dp=3"]),
        (["parallel.schedule=1f2b"], ["no schedule '1f2b'", "1f1b"]),
        (["data.text=nowhere"], ["nowhere", "give the path of the data"]),
        (["data.text=empty.txt"], ["empty.txt", "empty"]),
        (["data={jsonl: broken.jsonl, sequence_length: 16}"], ["broken.jsonl line 2"]),
        (["model={path: nowhere}", "data.vocab_size=null"], ["nowhere", "no config.json"]),
    ],
)
def test_a_wrong_job_is_one_sentence_and_leaves_nothing(
    job: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch, overrides: list[str], parts: list[str]
) -> None:
    monkeypatch.chdir(job.parent)
    Path("empty.txt").touch()
    Path("broken.jsonl").write_text('{"text": "whole"}\n{"text": \n')
    sentence = refuse("train", job, *overrides, "--run-dir", "run")
    for part in parts:
        assert part in sentence, sentence
    assert not Path("run").exists()


def test_a_missing_config_and_a_folder_that_is_no_run_are_named(tmp_path: Path, refuse: Refuse) -> None:
    for verb in ("train", "plan", "profile"):
        assert "none.yaml cannot be read" in refuse(verb, tmp_path / "none.yaml")
    assert "give the folder that `headrace train` wrote" in refuse("view", tmp_path)
    assert "give the folder that `headrace train` wrote" in refuse("export", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_folder_that_cannot_be_made_is_named(job: Path, refuse: Refuse) -> None:
    assert "cannot be made: Not a directory; choose another --run-dir" in refuse("train", job, "--run-dir", job / "run")


def test_a_folder_that_holds_a_run_stays_as_it_is(llama: Whole, refuse: Refuse) -> None:
    before = _contents(llama.run_dir)
    assert "holds a run already" in refuse("train", llama.job, "--run-dir", llama.run_dir)
    assert _contents(llama.run_dir) == before


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        ([], "has done step 6 of train.steps=6; set train.steps higher"),
        (["train.steps=9", "train.batch=4"], "set train.batch=8"),
        (["train.steps=9", "model.config.hidden_size=64"], "is of another job: model."),
        (["train.steps=9", "data.sequence_length=8"], "sequence_length was 16 and is now 8"),
        (["train.steps=9", "data.text=other.txt"], "is of another job: data was"),
        (["train.steps=9", "train.seed=1"], "train_seed was 0 and is now 1"),
    ],
)
def test_a_checkpoint_of_another_job_is_refused_and_the_run_stays_as_it_is(
    llama: Whole, tmp_path: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch, overrides: list[str], part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.txt").write_text("Another text, with words of its own.\n" * 99)
    shutil.copytree(llama.run_dir, "run")
    before = _contents(Path("run"))
    assert part in refuse("train", llama.job, *overrides, "--run-dir", "run", "--resume")
    assert _contents(Path("run")) == before


def test_a_half_written_checkpoint_is_refused_and_the_whole_one_named(
    llama: Whole, tmp_path: Path, refuse: Refuse
) -> None:
    shutil.copytree(llama.run_dir, tmp_path / "run")
    newest = tmp_path / "run/checkpoints/step-000006"
    file = next(newest.glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:-1])
    sentence = refuse("train", llama.job, "train.steps=9", "--run-dir", tmp_path / "run", "--resume")
    assert f"{newest} cannot be read: {file.name} has" in sentence
    assert "step-000004 is whole, use that one" in sentence


def test_resume_without_a_run_is_refused(job: Path, refuse: Refuse) -> None:
    assert "holds no run to resume" in refuse("train", job, "--run-dir", job.parent / "run", "--resume")


def test_a_run_whose_checkpoints_cannot_fit_does_not_start(
    job: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    num_parameters = 56_352  # Three checkpoints of weights and two moments at a time, and the exported weights.
    needed_bytes = num_parameters * 4 * (3 * 3 + 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, needed_bytes - 1))
    sentence = refuse("train", job, "--run-dir", job.parent / "run")
    assert "There is no room in" in sentence
    assert "2.254 MB are needed and 2.254 MB are free" in sentence
    assert not (job.parent / "run").exists()


def test_a_disk_that_fills_up_ends_the_run_and_spares_the_older_checkpoints(llama: Whole, tmp_path: Path) -> None:
    full = "import shutil\nshutil.disk_usage = lambda _: type('usage', (), {'free': 1})"
    failed = train(llama.job, str(tmp_path / "run"), hook=write_hook(tmp_path / "hook", 0, 5, full))
    assert failed.returncode == 1
    (sentence,) = (line for line in failed.stderr.splitlines() if line.startswith("headrace:"))
    assert "step-000006 was not written: rank 0 met 'No space left on device'" in sentence
    assert "step-000004, is whole; go on with --resume" in sentence
    checkpoints = tmp_path / "run/checkpoints"
    assert [folder.name for folder in sorted(checkpoints.iterdir())] == ["step-000002", "step-000004"]
    for file in (checkpoints / "step-000004").glob("*.distcp"):
        assert len(file.read_bytes()) == len((llama.run_dir / "checkpoints/step-000004" / file.name).read_bytes())


def test_a_wrong_number_of_processes_is_refused_before_any_group_is_made(
    job: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    sentence = refuse("train", job, "--run-dir", job.parent / "run")
    assert "3 processes were started" in sentence
    assert "start 2 processes" in sentence
    assert not dist.is_initialized()
    assert not (job.parent / "run").exists()


def test_a_port_in_use_is_named(job: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
        for name, value in settings.items():
            monkeypatch.setenv(name, str(value))
        assert "RANK is set, but MASTER_ADDR is not" in refuse("train", job, "--run-dir", job.parent / "run")
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        sentence = refuse("train", job, "--run-dir", job.parent / "run")
    assert f"the ranks cannot meet at 127.0.0.1:{port}" in sentence
    assert "set MASTER_PORT to a free port" in sentence
    assert not (job.parent / "run").exists()


def test_a_check_that_fails_says_why_on_both_streams(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["headrace", "check", "t5", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert json.loads(said.out)["exact"] is False
    assert said.err.startswith("headrace: t5 is refused: ")


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
