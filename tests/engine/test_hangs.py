"""A rank that lives but does not answer is named, with what it is at and who waits: nccl#1260, Megatron#1597."""

import re
from pathlib import Path

import pytest

from headrace.engine.watch import Watch
from headrace.errors import PeerLostError, StuckError
from headrace.schedule import Op
from tests.engine.failing import hanging_op, hanging_optimizer
from tests.engine.jobs import batches, plan
from tests.ranks import Ranks

TIMEOUT_S = 3.0
BOUNDS = {3: (0, 2, 4, 6), 4: (0, 1, 2, 4, 6)}


@pytest.mark.parametrize(
    ("num_ranks", "schedule", "op"),
    [(3, "1f1b", Op("F", 1, 1)), (4, "1f1b", Op("B", 2, 0)), (3, "zb-h1", Op("W", 0, 2)), (4, "gpipe", Op("F", 3, 0))],
)
def test_all_that_wait_name_the_stuck_rank_its_op_and_who_waits(
    ranks: Ranks, tmp_path: Path, num_ranks: int, schedule: str, op: Op
) -> None:
    job = (plan(BOUNDS[num_ranks], schedule, 3), batches(1)[0], op, TIMEOUT_S, tmp_path)
    answers = ranks.run(num_ranks, hanging_op, *job)
    assert answers[op.stage][1].endswith("the others have given up")
    others = [answer for rank, answer in enumerate(answers) if rank != op.stage]
    stuck = [text for kind, text in others if kind == "StuckError"]
    assert stuck  # The first of them; those whose peers have left by then say that.
    for text in stuck:
        assert text.startswith(f"rank {op.stage} is stuck at {op} of step 1: it has been there for")
        assert f"more than train.timeout_s={TIMEOUT_S:g};" in text
        assert "\n" not in text
    assert {kind for kind, _ in others} <= {"StuckError", "PeerLostError"}
    waiting = re.findall(r"rank (\d) waits at (?:[FBIW]\(|the end of the step for all ranks)", max(stuck, key=len))
    assert set(map(int, waiting)) <= set(range(num_ranks)) - {op.stage}
    assert waiting


def test_a_rank_that_hangs_between_its_ops_is_named_too(ranks: Ranks, tmp_path: Path) -> None:
    answers = ranks.run(2, hanging_optimizer, plan((0, 3, 6), "1f1b", 3), batches(1)[0], 1, TIMEOUT_S, tmp_path)
    assert answers[0][0] == "StuckError"
    assert answers[0][1].startswith("rank 1 is stuck at the optimizer's step 1: ")
    assert (
        "rank 0 waits at B(stage 0, micro-batch 0) of step 2 for the gradient of micro-batch 0 from rank 1"
        in (answers[0][1])
    )


def watches(folder: Path, number: int, timeout_s: float = 0.0) -> list[Watch]:
    return [Watch(rank, number, timeout_s, folder) for rank in range(number)]


def test_a_chain_of_waits_is_followed_to_its_end(tmp_path: Path) -> None:
    ranks = watches(tmp_path, 5)
    ranks[0].waits("at B", 1)
    ranks[1].waits("at F", 2)
    ranks[2].works("F(stage 2, micro-batch 7) of step 9")
    ranks[3].works("F(stage 3, micro-batch 0) of step 9")  # Busy, but nobody whom rank 0 waits for waits for it.
    ranks[4].waits("at the end of step 9 for all ranks")
    error = ranks[0].lost("rank 0 waited", RuntimeError("timed out"))
    assert isinstance(error, StuckError)
    assert str(error).startswith("rank 2 is stuck at F(stage 2, micro-batch 7) of step 9: ")
    assert str(error).endswith(
        "; rank 0 waits at B, rank 1 waits at F, rank 4 waits at the end of step 9 for all ranks"
    )
    assert str(ranks[4].lost("rank 4 waited", RuntimeError("timed out"))).startswith("rank 2 is stuck")


def test_ranks_that_wait_for_each_other_are_all_listed(tmp_path: Path) -> None:
    ranks = watches(tmp_path, 2)
    ranks[0].waits("at B", 1)
    ranks[1].waits("at F", 0)
    text = str(ranks[0].lost("rank 0 waited for rank 1", RuntimeError("timed out")))
    assert text == (
        "rank 0 waited for rank 1, which did not come within train.timeout_s=0: rank 0 waits at B, rank 1 waits at F"
    )


def test_a_peer_that_is_gone_before_the_limit_is_not_called_stuck(tmp_path: Path) -> None:
    (watch,) = watches(tmp_path, 1, timeout_s=600)
    error = watch.lost("rank 0 waited for rank 1", RuntimeError("Connection closed by peer\n at pair.cc"))
    assert isinstance(error, PeerLostError)
    assert str(error) == "rank 0 waited for rank 1, which is gone: Connection closed by peer"


def test_the_notes_are_gone_when_the_last_rank_has_closed(tmp_path: Path) -> None:
    for watch in watches(tmp_path / "watch", 3):
        watch.close()
        watch.close()
    assert not (tmp_path / "watch").exists()


def test_a_note_that_is_too_long_is_cut_and_one_that_was_not_written_is_left_out(tmp_path: Path) -> None:
    (watch,) = watches(tmp_path, 1)
    watch.works("x" + "é" * 300)
    assert "rank 0 waited, which did not come" in str(Watch(0, 1, 0.0, None).lost("rank 0 waited", RuntimeError("x")))
    assert str(watch.lost("rank 0 waited", RuntimeError("x"))).startswith("rank 0 is stuck at xéé")
