import csv
from pathlib import Path

import pytest
from torch.distributed.pipelining.schedules import _Action, _validate_schedule

from headrace.errors import RequestError
from headrace.schedule import (
    FAMILIES,
    Schedule,
    check,
    make_schedule,
    read_schedule,
    schedule_from_csv,
    schedule_from_json,
    schedule_to_csv,
    write_schedule,
)


def ways(schedule: Schedule) -> list[tuple[int, ...]]:
    return [
        tuple(schedule.rank_of(stage, mb) for stage in range(schedule.num_stages))
        for mb in range(schedule.num_microbatches)
    ]


@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize("ending", ["csv", "json"])
def test_every_family_comes_back_from_its_file(name: str, ending: str, tmp_path: Path) -> None:
    schedule = make_schedule(name, 4, 8)
    path = tmp_path / f"{name}.{ending}"
    write_schedule(schedule, path)
    back = read_schedule(path)
    assert (back.name, back.orders, ways(back)) == (name, schedule.orders, ways(schedule))
    if ending == "json":
        assert (back.update_every, back.delayed_update) == (schedule.update_every, schedule.delayed_update)
    assert check(back).peak_in_flight == check(schedule).peak_in_flight


@pytest.mark.parametrize(
    "name", ["gpipe", "1f1b", "interleaved-1f1b", "zb-h1", "zb-v", "v-half", "dualpipe-v", "hanayo"]
)
def test_torchs_own_reader_takes_our_csv_and_its_validator_agrees(name: str) -> None:
    """The validator steps all ranks together, so idle slots are written where ours waits."""
    schedule = make_schedule(name, 4, 8)
    rows = list(csv.reader(schedule_to_csv(schedule).splitlines()))
    actions = {rank: [_Action.from_str(cell) for cell in row] for rank, row in enumerate(rows)}
    assert [[str(action) for action in order] for order in actions.values()] == rows
    stage_to_rank = _validate_schedule(actions, 4, schedule.num_stages, 8)
    assert stage_to_rank == dict(enumerate(schedule.placement))


def test_torchs_csv_is_read_with_idle_slots_overlaps_and_messages() -> None:
    text = "0F0,0SEND_F0,0F1,,(0F2;0B0)OVERLAP_F_B,0B1,0B2,0REDUCE_GRAD\n,1RECV_F0,1F0,1B0,1F1,1B1,1F2,1B2\n"
    schedule = schedule_from_csv(text, "theirs")
    assert [str(op.kind) + str(op.microbatch) for op in schedule.orders[0]] == ["F0", "F1", "F2", "B0", "B1", "B2"]
    assert check(schedule).peak_in_flight == (3, 1)


def test_a_schedule_written_by_hand_is_checked_like_any_other() -> None:
    good = {"orders": [["0F0", "0F1", "0I0", "0W0", "0B1"], ["1F0", "1B0", "1F1", "1B1"]]}
    assert check(schedule_from_json(good)).ascending
    with pytest.raises(RequestError, match=r"every op once\): W\(stage 0, micro-batch 0\) is missing on rank 0"):
        check(schedule_from_json({"orders": [["0F0", "0I0"]]}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0F0,0X0\n", r"row 1, cell 2 is '0X0'; write STAGE KIND MICROBATCH"),
        ("0F0,0B0\nF1\n", r"row 2, cell 1 is 'F1'"),
        ("0F-1\n", "cell 1 is '0F-1'"),
        ("", "has no ops"),
        ("\n,,\n", "has no ops"),
        ("0F0,0B0\n2F0,2B0\n", "stage 1 has no op of micro-batch 0 on any rank"),
        ("999999999F0\n", "stage 0 has no op of micro-batch 0"),
    ],
)
def test_broken_csv_is_answered_with_its_place(text: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        schedule_from_csv(text, "mine")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "an object with 'orders'"),
        ({"orders": [], "colour": 1}, "no more than"),
        ({"orders": ["0F0"]}, r"orders\[0\] is '0F0'; give a list"),
        ({"orders": [["0F0", 7]]}, r"orders\[0\], cell 2 is '7'"),
        ({"orders": [["0F0"]], "update_every": "x"}, "update_every must be a count"),
    ],
)
def test_broken_json_is_answered_with_its_place(data: object, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        schedule_from_json(data)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "a.txt").write_text("0F0")
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\xfa")
    for name, words in (
        ("a.json", "is not JSON"),
        ("a.txt", "ends in '.txt'"),
        ("a.csv", "cannot be read"),
        ("b.csv", "cannot be read"),
    ):
        with pytest.raises(RequestError, match=words):
            read_schedule(tmp_path / name)
    with pytest.raises(RequestError, match=r"take \.csv or \.json"):
        write_schedule(make_schedule("1f1b", 1, 1), tmp_path / "a.xml")
