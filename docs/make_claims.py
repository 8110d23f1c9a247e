"""Makes the table of the field's claims with what the simulator says: ``python -m docs.make_claims``."""

import json
from dataclasses import dataclass
from typing import Any

from docs.made import DOCS, note, save, table
from headrace.simulate.report import Question, answer

TEXT = """# Claims of the field

What papers and projects say of pipeline schedules, the command that checks it here, and what comes out. `F`, `I` and
`W` are equally long and messages free unless the command says otherwise.

"""
GPIPE = """
## GPipe's tables

GPipe (arXiv 1811.06965) prints throughput of a Transformer, relative to the least of each table. Ours is
`K m / (m + K - 1)` for K partitions and m micro-batches, from `headrace simulate gpipe --stages K --microbatches m
--f-ms 1 --i-ms 1 --w-ms 1`. With 32 micro-batches both agree within a tenth. With 1 and 4 they do not: the paper
adjusts the batch to the memory at hand, so its rows do not compare equal batches, and gain more than fewer idle slots
can give.
AmoebaNet's rows are not shown: how far its uneven layers balance is not printed.

"""
GPIPE_ROWS = (
    ("Transformer-48 on TPU, table 2", 1, ((2, 1.0), (4, 1.07), (8, 1.3)), (2, 1)),
    ("Transformer-48 on TPU, table 2", 4, ((2, 1.7), (4, 3.2), (8, 4.8)), (2, 1)),
    ("Transformer-48 on TPU, table 2", 32, ((2, 1.8), (4, 3.4), (8, 6.3)), (2, 1)),
    ("Transformer-24 on P100, table 3", 32, ((2, 1.0), (4, 1.8), (8, 3.3)), (2, 32)),
)
MEASURED = "--f-ms 18.522 --i-ms 18.086 --w-ms 9.337 --comm-ms 0.601"
EVEN = "--f-ms 1 --i-ms 1 --w-ms 1"
PAPER = json.loads((DOCS.parent / "tests" / "data" / "zero_bubble.json").read_text())
COLUMNS = {"1f1b": "1F1B", "interleaved-1f1b": "1F1B-I", "zb-h1": "ZB-H1", "zb-h2": "ZB-H2", "zb-1p": "ZB-1p",
           "zb-2p": "ZB-2p"}  # fmt: skip
ZERO_BUBBLE = """
## The Zero Bubble paper's tables

Bubble rates that the paper (arXiv 2401.10241, tables 4, 5 and 9) computes from the times in the same rows, and ours
from `headrace simulate SCHEDULE --stages 8 --microbatches m` with those times. 1F1B, ZB-H1 and ZB-H2 agree in every
digit. ZB-1p and ZB-2p come from a search, here and there, with `W` holding half of a micro-batch's activations (0.37
and 0.43 in the paper's models, which changes no rate by more than 0.0002). For 1F1B-I the paper makes each layer a
chunk, and the end stages hold one layer less; here all chunks are priced alike, so the rates are a little higher.

"""
ZB_V = """
Table 8 has ZB-V for models whose times are not printed. The 6.2B model's times are known on 8 ranks (above, the row of
24 micro-batches); on 16 ranks each has half of the layers, so half of the times. The rows of the 14.6B and 28.3B models
cannot be computed: no times of theirs are printed.

"""


@dataclass(frozen=True)
class Claim:
    """A sentence, who says it, and the two questions (one of them may be empty) whose figures decide it.

    Attributes:
        says: The claim.
        source: Paper or page.
        schedules: Names, each with the arguments behind it.
        key: Of the row that `answer` gives.
    """

    says: str
    source: str
    schedules: tuple[str, ...]
    key: str


CLAIMS = (
    Claim("Without micro-batches 8 stages idle 87.5% of the time", "2104.04473, section 2.2.1",
          (f"gpipe --stages 8 --microbatches 1 {EVEN}",), "idle_share"),
    Claim("With enough of them, under 10%", "2104.04473, section 2.2.1",
          (f"1f1b --stages 8 --microbatches 64 {EVEN}",), "idle_share"),
    Claim("Utilization of 8 stages is 50% at 7 micro-batches and 90% at 63", "m / (m + p - 1)",
          (f"1f1b --stages 8 --microbatches 7 {EVEN}", f"1f1b --stages 8 --microbatches 63 {EVEN}"), "idle_share"),
    Claim("The bubble is negligible from 4 micro-batches a stage on (it is 18% there)", "1811.06965, section 2.3",
          (f"gpipe --stages 8 --microbatches 32 {EVEN}",), "idle_share"),
    Claim("Interleaving v chunks divides the bubble by v", "2104.04473, section 2.2.2",
          (f"1f1b --stages 8 --microbatches 32 {EVEN}",
           f"interleaved-1f1b --stages 8 --microbatches 32 --chunks 4 {EVEN}"), "step_ms"),
    Claim("ZB-H1 takes the bubble from 24.31% to 15.85% at the memory of 1F1B", "2401.10241, 1.5B, 24 micro-batches",
          (f"1f1b --stages 8 --microbatches 24 {MEASURED}", f"zb-h1 --stages 8 --microbatches 24 {MEASURED}"),
          "bubble_rate"),
    Claim("ZB-H2 takes it to 10.83%", "2401.10241, the same row",
          (f"zb-h2 --stages 8 --microbatches 24 {MEASURED}",), "bubble_rate"),
    Claim("ZB-V has no bubble at the memory of 1F1B", "2401.10241, section 6",
          (f"zb-v --stages 8 --microbatches 32 {EVEN}",), "bubble_rate"),
    Claim("V-Half: half of 1F1B's activations, plus one micro-batch for rounding", "2405.15362",
          (f"v-half --stages 16 --microbatches 64 {EVEN}",), "memory"),
    Claim("V-Min: a third, plus up to 4/3 of a micro-batch for rounding", "2405.15362",
          (f"v-min --stages 16 --microbatches 64 {EVEN}",), "memory"),
    Claim("DualPipe holds p + 1 micro-batches: 1.125 of 1F1B at p = 8", "2412.19437",
          (f"dualpipe --stages 8 --microbatches 32 {EVEN}",), "memory"),
    Claim("Chimera idles (p - 2) / (2 m + p - 2) with B as long as F: 8.57% at p = 8, m = 32", "2107.06925",
          ("chimera --stages 8 --microbatches 32 --f-ms 2 --i-ms 1 --w-ms 1",), "idle_share"),
    Claim("PipeDream has no bubble in the steady state: 8 more micro-batches cost 8 (F + B) = 24", "2006.09503",
          (f"pipedream --stages 8 --microbatches 32 {EVEN}",
           f"pipedream --stages 8 --microbatches 40 {EVEN}"), "step_ms"),
)  # fmt: skip


def ask(line: str) -> dict[str, float]:
    """The row that ``headrace simulate LINE --json`` prints."""
    name, *options = line.split()
    given = dict(zip(options[::2], options[1::2], strict=True))
    numbers = {key[2:].replace("-", "_"): float(value) for key, value in given.items()}
    counts = {key: int(numbers.pop(key)) for key in ("stages", "microbatches", "chunks") if key in numbers}
    return answer(name, Question(**counts, **numbers))[0]


def speed(num_ranks: int, num_microbatches: int) -> float:
    """Micro-batches a second of GPipe, relative to one rank; a stage's work is a rank's share of the model."""
    step_ms = ask(f"gpipe --stages {num_ranks} --microbatches {num_microbatches} {EVEN}")["step_ms"]
    return num_ranks * num_microbatches * 3 / step_ms


def pages() -> dict[str, str]:
    """The page."""
    rows = [
        (claim.says, claim.source, f"`headrace simulate {line}`", f"{claim.key} {ask(line)[claim.key]:.4g}")
        for claim in CLAIMS
        for line in claim.schedules
    ]
    gpipe = [
        (where, f"{m}", f"{k}", f"{printed:g}", f"{speed(k, m) / speed(*base):.2f}")
        for where, m, columns, base in GPIPE_ROWS
        for k, printed in columns
    ]
    zero_bubble = [
        (
            row["model"],
            f"{row['m']}",
            *(_pair(row["bubble_rate"][column], _rate(name, row)) for name, column in COLUMNS.items()),
        )
        for row in PAPER["main_rows"]
    ]
    zb_v = [(f"{row[2]}", _pair(row[-1], _zb_v_rate(row[1], row[2]))) for row in PAPER["table_8"]["rows"][:3]]
    claims = table(("claim", "source", "command", "here"), rows)
    gpipe_table = table(("where", "micro-batches", "partitions", "printed", "here"), gpipe)
    zero_bubble_table = table(("model", "m", *(f"{column}: paper, here" for column in COLUMNS.values())), zero_bubble)
    zb_v_table = table(("m on 16 ranks, 6.2B", "ZB-V: paper, here"), zb_v)
    parts = (TEXT, claims, GPIPE, gpipe_table, ZERO_BUBBLE, zero_bubble_table, ZB_V, zb_v_table)
    return {"claims.md": note("docs.make_claims") + "".join(parts)}


def _pair(printed: float, ours: float) -> str:
    return f"{printed:.4f}, {ours:.4f}"


def _rate(name: str, row: dict[str, Any]) -> float:
    chunks = (row["layers"] + 2) // row["p"] if name == "interleaved-1f1b" else 1
    question = Question(row["p"], row["m"], row["f_ms"], row["i_ms"], row["w_ms"], row["comm_ms"], chunks)
    rate: float = answer(name, question)[0]["bubble_rate"]
    return rate


def _zb_v_rate(num_ranks: int, num_microbatches: int) -> float:
    row = next(row for row in PAPER["main_rows"] if (row["model"], row["m"]) == ("6.2B", 24))
    times = (row[key] / 2 for key in ("f_ms", "i_ms", "w_ms"))
    rate: float = answer("zb-v", Question(num_ranks, num_microbatches, *times, row["comm_ms"]))[0]["bubble_rate"]
    return rate


if __name__ == "__main__":
    save(pages())
