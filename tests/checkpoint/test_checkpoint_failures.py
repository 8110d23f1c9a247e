"""What a full disk, a killed job and a damaged folder do: one sentence, and nothing older is lost."""

import errno
import json
import os
import resource
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch
from gloo_ranks import run_ranks
from split_states import META, assert_same, blank, rank_state, whole_state
from torch.distributed.checkpoint.filesystem import FileSystem

from headrace.checkpoint import check_room, latest_checkpoint, load_state, read_meta, save_checkpoint
from headrace.errors import RequestError, RunError


def save_steps(run_dir, *steps, keep=9):
    return [save_checkpoint(run_dir, step, whole_state(step), {"step": step}, keep) for step in steps]


def names(run_dir):
    return sorted(folder.name for folder in (run_dir / "checkpoints").iterdir())


def outcome(run_dir, step, state):
    """The text of the error, with what is left of the checkpoints at the moment that it is raised."""
    try:
        save_checkpoint(run_dir, step, state, META, keep=1)
    except RunError as error:
        return str(error), names(run_dir)
    return "saved", names(run_dir)


def save_past_file_limit(rank, run_dir):
    """The kernel refuses rank 1 any byte past 16 kB of a file, in the midst of a tensor."""
    save_checkpoint(run_dir, 1, rank_state(whole_state(), rank, 2), META, keep=1)
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    result = outcome(run_dir, 2, {f"big.{rank}": torch.ones(100_000)})
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return result


def test_a_rank_that_cannot_write_gives_all_ranks_one_error_and_leaves_the_older_checkpoint(tmp_path):
    first, second = run_ranks(tmp_path / "ranks", 2, save_past_file_limit, tmp_path / "run")
    assert first == second
    text, left = first
    assert left == ["step-000001"]
    assert text.startswith(f"Checkpoint {tmp_path}/run/checkpoints/step-000002 was not written: ")
    assert "rank 1 met 'File too large'; it needs 804.1 kB and " in text
    state = blank(whole_state())
    load_state(tmp_path / "run" / "checkpoints" / "step-000001", state)
    assert_same(state, whole_state())


def save_on_full_disk(rank, run_dir):
    """Rank 1 finds 10 kB free, then its disk fills up while it writes, then there is room again."""
    mine = rank_state(whole_state(), rank, 2)
    usage = mock.Mock(free=10_000) if rank == 1 else shutil.disk_usage(run_dir.parent)
    with mock.patch("shutil.disk_usage", return_value=usage):
        before = outcome(run_dir, 2, mine)
    real_open = FileSystem.create_stream
    with mock.patch.object(
        FileSystem,
        "create_stream",
        lambda self, path, mode: real_open(
            self, Path("/dev/full") if rank == 1 and "distcp" in str(path) else path, mode
        ),
    ):
        during = outcome(run_dir, 3, mine)
    return before, during, outcome(run_dir, 4, mine)


def test_a_disk_that_is_full_on_one_rank_stops_all_and_the_next_save_works(tmp_path):
    first, second = run_ranks(tmp_path / "ranks", 2, save_on_full_disk, tmp_path / "run")
    assert first == second
    before, during, after = first
    assert "step-000002 was not written: rank 1 met 'No space left on device'; it needs " in before[0]
    assert " and 10 kB are free; make room and resume, older checkpoints are untouched." in before[0]
    assert "step-000003 was not written: rank 1 met 'No space left on device'" in during[0]
    assert before[1] == during[1] == []
    assert after == ("saved", ["step-000004"])


@pytest.mark.parametrize("file", [".metadata.tmp", "meta.json"])
def test_the_small_files_count_too(tmp_path, file):
    (kept,) = save_steps(tmp_path, 1)
    real_open = os.fsync

    def refuse(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(file):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real_open(descriptor)

    with mock.patch("os.fsync", refuse):
        text, left = outcome(tmp_path, 2, whole_state())
    assert "rank 0 met 'No space left on device'" in text
    assert left == [kept.name]


def test_meta_that_is_not_json_fails_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_checkpoint(tmp_path, 1, whole_state(), {"dtype": torch.float32}, keep=1)
    assert latest_checkpoint(tmp_path) is None


def test_only_the_newest_are_kept(tmp_path):
    save_steps(tmp_path, 8, 9, 10, 1_000_000, keep=2)
    assert names(tmp_path) == ["step-000010", "step-1000000"]
    assert latest_checkpoint(tmp_path).name == "step-1000000"


def test_a_damaged_checkpoint_does_not_push_a_whole_one_out(tmp_path):
    _, damaged = save_steps(tmp_path, 1, 2)
    (damaged / "meta.json").unlink()
    save_steps(tmp_path, 3, keep=2)
    assert names(tmp_path) == ["step-000001", "step-000002", "step-000003"]


def test_the_checkpoint_just_written_stays_where_later_steps_lie_from_before(tmp_path):
    save_steps(tmp_path, 5, 6)
    save_steps(tmp_path, 4, keep=1)
    assert names(tmp_path) == ["step-000004"]


def test_saving_a_step_again_replaces_it(tmp_path):
    save_steps(tmp_path, 1)
    folder = save_checkpoint(tmp_path, 1, {"other": torch.ones(2)}, {"again": True}, keep=1)
    assert names(tmp_path) == ["step-000001"]
    assert read_meta(folder) == {"again": True}


def test_a_folder_that_was_being_written_is_ignored_and_cleared_by_the_next_save(tmp_path):
    (tmp_path / "checkpoints" / "step-000009.partial").mkdir(parents=True)
    assert latest_checkpoint(tmp_path) is None
    save_steps(tmp_path, 1)
    assert names(tmp_path) == ["step-000001"]


def test_keeping_none_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"checkpoint\.keep is 0, and at least 1"):
        save_steps(tmp_path, 1, keep=0)


def cut(file, num_bytes):
    file.write_bytes(file.read_bytes()[:num_bytes])


DAMAGE = {
    "meta.json is missing": lambda folder: (folder / "meta.json").unlink(),
    "meta.json is cut off or was changed": lambda folder: cut(folder / "meta.json", 20),
    "__0_0.distcp is missing": lambda folder: (folder / "__0_0.distcp").unlink(),
    "__0_0.distcp has 100 of ": lambda folder: cut(folder / "__0_0.distcp", 100),
    ".metadata has 0 of ": lambda folder: cut(folder / ".metadata", 0),
    "there is no such folder": shutil.rmtree,
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_half_written_checkpoint_is_named_with_what_is_missing_and_which_older_one_is_whole(tmp_path, what):
    _, whole, damaged, newest = save_steps(tmp_path, 1, 2, 3, 4)
    DAMAGE["__0_0.distcp is missing"](damaged)
    DAMAGE[what](newest)
    state = blank(whole_state())
    for read in (read_meta, lambda folder: load_state(folder, state)):
        with pytest.raises(RequestError) as caught:
            read(newest)
        assert str(caught.value).startswith(f"Checkpoint {newest} cannot be read: {what}")
        assert str(caught.value).endswith(f"; {whole} is whole, use that one.")
    assert all(tensor.isnan().all() for tensor in state.values())


def test_where_none_is_whole_the_error_says_so(tmp_path):
    (only,) = save_steps(tmp_path, 1)
    DAMAGE["meta.json is missing"](only)
    with pytest.raises(RequestError, match="no older checkpoint is whole, start a new run"):
        read_meta(only)


def test_data_that_cannot_be_decoded_is_refused_in_one_sentence(tmp_path):
    (folder,) = save_steps(tmp_path, 1)
    content = (folder / "__0_0.distcp").read_bytes()
    (folder / "__0_0.distcp").write_bytes(bytes(len(content)))
    with pytest.raises(RequestError, match=r"step-000001 is damaged: .* \(\w+\); use an older one\.$"):
        load_state(folder, blank(whole_state()))


NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("name", "tensor", "difference"),
    [
        (NAME, torch.zeros(5, 9), "[5, 4] float32 there and [5, 9] float32 here"),
        (NAME, torch.zeros(5, 4, dtype=torch.bfloat16), "[5, 4] float32 there and [5, 4] bfloat16 here"),
        ("model.layers.9.norm.weight", torch.zeros(2), "missing there and [2] float32 here"),
    ],
)
def test_another_models_checkpoint_is_refused_by_its_first_differing_name(tmp_path, name, tensor, difference):
    (folder,) = save_steps(tmp_path, 1)
    into = {"model.embed_tokens.weight": torch.zeros(5, 3), name: tensor, "zzz": torch.zeros(1)}
    with pytest.raises(RequestError) as caught:
        load_state(folder, into)
    assert f"{folder} is of another model: {name} is {difference}; " in str(caught.value)
    assert not into["model.embed_tokens.weight"].any()


def test_room_is_asked_for_before_a_run_folder_exists(tmp_path):
    check_room(tmp_path / "a" / "b", 1)
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(RequestError, match=r"no room in .*/a/b: .*TB are needed and .*B are free; make room"):
        check_room(tmp_path / "a" / "b", free + 10**15)


def test_meta_is_a_file_that_a_person_can_read(tmp_path):
    folder = save_checkpoint(tmp_path, 7, whole_state(), META, keep=1)
    lines = (folder / "meta.json").read_text().splitlines()
    assert lines[1:3] == ['  "step": 7,', '  "data_offset": 1234,']
    assert set(json.loads("\n".join(lines))["files"]) == {".metadata", "__0_0.distcp"}
