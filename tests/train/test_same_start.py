"""Ranks that were started unlike, or that do not see one run folder: the odd one is named, on every rank alike."""

import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from headrace.errors import RequestError
from headrace.train.config import load_config
from headrace.train.same_start import require_one_folder, require_same_start, start_of
from tests.ranks import Ranks
from tests.train.jobs import TORCHRUN, run, write_job


def _said(starts: list[dict[str, Any]]) -> str:
    try:
        require_same_start(starts[dist.get_rank()])
    except RequestError as error:
        return str(error)
    return ""


def _said_of_folder(folders: list[str]) -> str:
    try:
        require_one_folder(Path(folders[dist.get_rank()]), patience_s=0)
    except RequestError as error:
        return str(error)
    return ""


def test_the_odd_rank_is_named_with_the_key_that_differs(ranks: Ranks, tmp_path: Path) -> None:
    job = write_job(tmp_path)
    usual = start_of(load_config(job))
    assert ranks.run(3, _said, [usual] * 3) == [""] * 3
    for odd, key, parts in (
        (start_of(load_config(job, ["train.steps=7"])), "train.steps", ("7", "6")),
        (start_of(load_config(job, ["model.config.hidden_size=64"])), "model.config.hidden_size", ("64", "32")),
        (usual | {"version of transformers": "5.1.0"}, "version of transformers", ("'5.1.0'", "")),
        ({**usual, "version of torch": "2.12.0"}, "version of torch", ("'2.12.0'", "'2.13")),
    ):
        for place in range(3):
            first, *others = ranks.run(3, _said, [odd if rank == place else usual for rank in range(3)])
            assert others == [first, first]
            assert first.startswith(f"rank {place} on ")
            assert f"{key} = {parts[0]}, and the others with {parts[1]}" in first


def test_of_two_ranks_the_first_is_right(ranks: Ranks) -> None:
    assert ranks.run(2, _said, [{"a": 1}, {"a": 2}])[0].startswith("rank 1 on ")


def test_a_rank_that_does_not_see_the_run_folder_is_named(ranks: Ranks, tmp_path: Path) -> None:
    for name, plan in (("one", "{}"), ("same", "{}"), ("other", "[]")):
        folder = tmp_path / name
        folder.mkdir()
        for file, text in (("config.yaml", ""), ("job.json", ""), ("plan.json", plan)):
            (folder / file).write_text(text)
    one, same, other, none = (str(tmp_path / name) for name in ("one", "same", "other", "none"))
    assert ranks.run(3, _said_of_folder, [one, same, one]) == [""] * 3
    for odd in (other, none):
        for sentence in ranks.run(3, _said_of_folder, [one, one, odd]):
            assert sentence.startswith("rank 2 on ")
            assert "set --run-dir to a folder that all machines share" in sentence


def test_torchrun_with_two_configs_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    script = f"exec {sys.executable} -m headrace train {job} train.steps=$((6 + RANK)) --run-dir run"
    done = run([*TORCHRUN, "--nproc-per-node", 2, "--no-python", "bash", "-c", script], tmp_path)
    assert done.returncode != 0
    assert "was started with train.steps = 7, and the others with 6" in done.stderr
    assert not (tmp_path / "run").exists()
