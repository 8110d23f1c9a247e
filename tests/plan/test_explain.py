"""The plan in words."""

import pytest
from handmade_chains import make_chain, make_costs

from headrace.cluster import Cluster, Device, Link
from headrace.plan import Wanted, make_plan, stage_rows
from headrace.plan.words import bytes_text, layers_text, listing, seconds_text


def test_rows_say_what_each_stage_holds_and_takes():
    chain = make_chain(8, tied=True)
    cluster = Cluster((Device("cpu", "cpu", 10**9, 1e9, 1e9),) * 3, Link(0.0, 1e9))
    wanted = Wanted(cuts=(3, 2, 3), microbatches=4, schedule="1f1b")
    plan, _ = make_plan(chain, lambda rows: make_costs(chain, rows=rows, head_s=0.002), cluster, 8, 16, wanted)
    first, middle, last = stage_rows(plan, chain)
    block, table = 12 * 32**2, 97 * 32
    assert [row.layers for row in (first, middle, last)] == ["embedding, layers 0-2", "layers 3-4", "layers 5-7, head"]
    assert [row.rank for row in (first, middle, last)] == [0, 1, 2]
    assert [row.num_parameters for row in (first, middle, last)] == [3 * block + table, 2 * block, 3 * block + table]
    assert [row.in_flight for row in (first, middle, last)] == [3, 2, 1]
    assert [row.forward_s for row in (first, middle, last)] == pytest.approx([0.006, 0.004, 0.010])
    assert [row.backward_s for row in (first, middle, last)] == pytest.approx([0.012, 0.008, 0.020])
    assert [row.memory_bytes for row in (first, middle, last)] == [plan.prediction.memory_bytes(r) for r in range(3)]


@pytest.mark.parametrize(
    ("first", "end", "text"),
    [
        (0, 10, "embedding, layers 0-7, head"),
        (0, 1, "embedding"),
        (0, 2, "embedding, layer 0"),
        (3, 5, "layers 2-3"),
        (8, 10, "layer 7, head"),
        (9, 10, "head"),
    ],
)
def test_layers_are_named_as_the_model_counts_them(first, end, text):
    assert layers_text(make_chain(8), first, end) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0123456, "12.3 ms"),
        (0.9994, "999 ms"),
        (0.9999, "1 s"),
        (1.234, "1.23 s"),
        (12345.6, "12,346 s"),
        (0, "0 µs"),
        (123.4e-6, "123 µs"),
        (0.9999e-3, "1 ms"),
    ],
)
def test_seconds_are_short(seconds, text):
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (16e9, "16 GB"), (1.5e12, "1.5 TB"), (5e15, "5,000 TB")],
)
def test_bytes_are_short(num_bytes, text):
    assert bytes_text(num_bytes) == text


def test_lists_end_in_and():
    assert [listing(["a"]), listing(["a", "b"]), listing("abc")] == ["a", "a and b", "a, b and c"]
