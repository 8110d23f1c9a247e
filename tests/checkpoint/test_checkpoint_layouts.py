"""Saved by some ranks, loaded by others: the bits stay."""

import pytest
import torch
from gloo_ranks import run_ranks
from split_states import META, assert_same, blank, rank_state, whole_state
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from headrace.checkpoint import load_state, read_meta, save_checkpoint


def save_my_part(rank, run_dir):
    return save_checkpoint(run_dir, 7, rank_state(whole_state(), rank, 2), META, keep=1)


def load_my_part(rank, folder, num_ranks):
    mine = blank(rank_state(whole_state(), rank, num_ranks))
    load_state(folder, mine)
    return mine


@pytest.fixture(scope="module")
def saved_by_two(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("two")
    folders = run_ranks(tmp_path / "ranks", 2, save_my_part, tmp_path / "run")
    assert folders == [tmp_path / "run" / "checkpoints" / "step-000007"] * 2
    return folders[0]


def test_one_process_loads_what_two_saved_and_each_weight_has_its_own_moments(saved_by_two):
    state = blank(whole_state())
    load_state(saved_by_two, state)
    assert_same(state, whole_state())


def test_three_processes_load_what_two_saved(saved_by_two, tmp_path):
    for rank, mine in enumerate(run_ranks(tmp_path / "ranks", 3, load_my_part, saved_by_two, 3)):
        assert_same(mine, rank_state(whole_state(), rank, 3))


def test_meta_comes_back_as_it_was_given(saved_by_two):
    assert read_meta(saved_by_two) == META


def test_the_tied_embedding_of_two_ranks_is_stored_once(saved_by_two):
    values = sum(tensor.numel() * 4 for tensor in whole_state().values())
    stored = sum(file.stat().st_size for file in saved_by_two.glob("*.distcp"))
    assert values < stored < values + 2048 * len(whole_state())


def test_other_ranks_data_is_not_read(saved_by_two, tmp_path):
    """Rank 1's file is garbage of the right length; rank 0's tensors load all the same."""
    folder = tmp_path / "checkpoints" / saved_by_two.name
    folder.mkdir(parents=True)
    for file in saved_by_two.iterdir():
        content = file.read_bytes()
        (folder / file.name).write_bytes(bytes(len(content)) if file.name == "__1_0.distcp" else content)
    only_first = {n: t for n, t in whole_state().items() if "layers.0." in n}
    state = blank(only_first)
    load_state(folder, state)
    assert_same(state, only_first)


def test_parameters_that_need_gradients_are_filled_in_place(saved_by_two):
    name = "model.layers.1.mlp.up_proj.weight"
    parameter = torch.nn.Parameter(torch.zeros_like(whole_state()[name]))
    load_state(saved_by_two, {name: parameter})
    assert torch.equal(parameter, whole_state()[name])
    assert parameter.requires_grad


def save_rows_and_load_columns(rank, run_dir):
    """Rows over two ranks, unevenly (5 = 3 + 2), beside a tensor that both hold whole; then columns (2 + 1)."""
    mesh = init_device_mesh("cpu", (2,))
    whole = torch.arange(15.0).reshape(5, 3)
    state = {"split": distribute_tensor(whole, mesh, [Shard(0)]), "copied": whole + 1}
    folder = save_checkpoint(run_dir, 1, state, META, keep=1)
    into = distribute_tensor(torch.zeros(5, 3), mesh, [Shard(1)])
    load_state(folder, {"split": into})
    return folder, into.to_local()


def test_sharded_tensors_load_whole_and_along_another_dim(tmp_path):
    (folder, left), (_, right) = run_ranks(tmp_path / "ranks", 2, save_rows_and_load_columns, tmp_path / "run")
    whole = torch.arange(15.0).reshape(5, 3)
    assert torch.equal(torch.cat([left, right], dim=1), whole)
    state = blank({"split": whole, "copied": whole})
    load_state(folder, state)
    assert_same(state, {"split": whole, "copied": whole + 1})
