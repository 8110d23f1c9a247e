"""The loss that is reported is the true one: on every rank, and however the rows are cut."""

from itertools import pairwise

import pytest

from headrace.train.config import load_config
from headrace.train.rate import learning_rate
from tests.engine.jobs import batches, plain, plan, tiny, train
from tests.ranks import Ranks
from tests.train.jobs import write_job


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zb-v"])
def test_every_rank_reports_the_one_true_loss_for_any_number_of_micro_batches(ranks: Ranks, schedule: str) -> None:
    config, steps = tiny(num_hidden_layers=4), batches(1)
    chunks = 2 if schedule == "zb-v" else 1
    bounds = (0, 2, 3, 4, 6) if chunks == 2 else (0, 3, 6)
    reported = []
    for microbatches in (1, 2, 4, 8):
        answers = ranks.run(2, train, config, plan(bounds, schedule, microbatches, chunks), steps)
        start = {name: tensor for answer in answers for name, tensor in answer[4].items()}
        (true_loss,) = plain(config, start, steps, 1)[0]
        reported += [loss for losses, *_ in answers for loss in losses]
        assert all(abs(loss - true_loss) <= 1e-6 * true_loss for loss in reported)
    assert len(reported) == 2 * 4


def test_the_learning_rate_warms_up_to_its_peak_and_falls_to_its_floor(tmp_path) -> None:
    settings = load_config(write_job(tmp_path), ["train.steps=10", "train.warmup_steps=3"]).train
    rates = [learning_rate(settings, step) for step in range(10)]
    assert rates[:3] == [pytest.approx(1e-2 * step / 3) for step in (1, 2, 3)]
    assert rates[3] == 1e-2
    assert rates[9] == pytest.approx(1e-3)
    assert all(a > b for a, b in pairwise(rates[3:]))
