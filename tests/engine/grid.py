"""The grid of schedules, ranks and micro-batches: what its ranks run, and what they are held to."""

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from headrace.chain.build import ModelSource
from headrace.engine.batch import Batch
from headrace.plan import Layout, Plan
from headrace.plan.orders import runnable_families
from headrace.schedule import Schedule, make_schedule
from headrace.schedule.files import schedule_to_json
from headrace.schedule.prices import Prices
from headrace.simulate.auto import auto
from tests.engine.jobs import batches, plain, tiny, train
from tests.ranks import Ranks

NUM_LAYERS = 8
MODELS = {
    "llama": lambda: tiny(num_hidden_layers=NUM_LAYERS),
    "gpt2": lambda: tiny("gpt2", num_hidden_layers=NUM_LAYERS, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1),
    "gemma2": lambda: tiny(
        "gemma2", num_hidden_layers=NUM_LAYERS, head_dim=8, sliding_window=4, tie_word_embeddings=True
    ),
    "mixtral": lambda: tiny("mixtral", num_hidden_layers=NUM_LAYERS, num_local_experts=4, num_experts_per_tok=2),
}
SYNCHRONOUS = [made.name for made in runnable_families(4, 8)]
STEPS = 3


@dataclass(frozen=True)
class Result:
    """A training run without its tensors: the hash of each, by name, is enough to see one bit change."""

    losses: list[float]
    norms: list[float]
    gradients: dict[str, str]
    weights: dict[str, str]

    @classmethod
    def of(cls, losses: list[float], norms: list[float], *named: dict[str, torch.Tensor]) -> "Result":
        gradients, weights = ({n: _hash(t) for n, t in tensors.items()} for tensors in named[:2])
        return cls(losses, norms, gradients, weights)


def _hash(tensor: torch.Tensor) -> str:
    return hashlib.blake2b(tensor.contiguous().view(torch.uint8).numpy().tobytes(), digest_size=8).hexdigest()


def even_bounds(num_stages: int) -> tuple[int, ...]:
    """Uneven where it does not divide."""
    return tuple(round(stage * (NUM_LAYERS + 2) / num_stages) for stage in range(num_stages + 1))


def schedule_of(family: str, num_ranks: int, microbatches: int) -> Schedule:
    if family != "auto":
        return make_schedule(family, num_ranks, microbatches)
    one = (1.0,) * num_ranks
    prices = Prices(one, one, one, (0.2,) * (num_ranks - 1), one, one)
    return auto(microbatches, prices, (4.0,) * num_ranks, max_copies=1).schedule


def plan_of(family: str, num_ranks: int, microbatches: int) -> Plan:
    schedule = schedule_of(family, num_ranks, microbatches)
    stages = schedule.num_stages
    layout = Layout(1, num_ranks, 1, stages // num_ranks, even_bounds(stages), schedule.placement)
    return Plan(layout, family, microbatches, 1, orders=tuple(map(tuple, schedule_to_json(schedule)["orders"])))


def train_each(source: ModelSource, plans: list[Plan], steps: list[Batch]) -> list[Result]:
    """All plans in turn in the same processes, each with an engine of its own."""
    return [Result.of(*train(source, one, steps)) for one in plans]


def run_each(
    ranks: Ranks, model: str, num_ranks: int, plans: list[Plan], dtype: torch.dtype = torch.float32
) -> list[Result]:
    """What came out of each plan: all ranks must say one loss and norm, and what each holds is put together."""
    answers = ranks.run(num_ranks, train_each, ModelSource(MODELS[model](), dtype=dtype), plans, batches(STEPS))
    return [_merged(list(results)) for results in zip(*answers, strict=True)]


def _merged(results: list[Result]) -> Result:
    first = results[0]
    assert all((r.losses, r.norms) == (first.losses, first.norms) for r in results)
    return Result(
        first.losses, first.norms, _joined([r.gradients for r in results]), _joined([r.weights for r in results])
    )


def _joined(parts: list[dict[str, str]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, hashed in (item for part in parts for item in part.items()):
        assert joined.setdefault(name, hashed) == hashed, f"two ranks hold different {name}"
    return joined


def judged(model: str, microbatches: int, dtype: torch.dtype = torch.float32) -> Result:
    """Plain transformers and torch in this process."""
    return Result.of(*judged_tensors(model, microbatches, dtype))


@cache
def judged_tensors(model: str, microbatches: int, dtype: torch.dtype = torch.float32) -> Any:
    source = ModelSource(MODELS[model](), dtype=dtype)
    start = {n: p.detach().clone() for n, p in source.build(0, NUM_LAYERS + 2).named_parameters()}
    if source.config.tie_word_embeddings:
        del start["lm_head.weight"]
    return plain(source.config, start, batches(STEPS), microbatches, dtype)


def differences(got: Result, expected: Result) -> list[str]:
    """What is not the same to the last bit; all of it, so that a failure shows its kind."""
    found = [
        f"{what} {mine} != {judge}"
        for what, mine, judge in (("losses", got.losses, expected.losses), ("norms", got.norms, expected.norms))
        if mine != judge
    ]
    for what, mine, judge in (
        ("gradient", got.gradients, expected.gradients),
        ("weight", got.weights, expected.weights),
    ):
        found += [f"{what} of {name}" for name in sorted(mine.keys() | judge) if mine.get(name) != judge.get(name)]
    return found
