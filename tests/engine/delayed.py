"""The judge of asynchronous schedules: delayed updates in one process, slowly, from transformers and torch alone.

The rule of which weights a micro-batch meets is the papers' own. PipeDream (arXiv 1806.03377, section 3.3):
``w(t+1) = w(t) - v grad f(w_1(t-n+1), w_2(t-n+2), ..., w_n(t))``, so stage ``s`` of ``n`` lags
by ``n - 1 - s`` updates.
PipeDream-2BW (arXiv 2006.09503, section 3.1): ``W(t+1) = W(t) - v grad f(W(t-1))``.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from headrace.chain.build import ModelSource
from headrace.engine import AdamWSettings, Engine
from headrace.engine.batch import Batch
from headrace.plan import Plan
from tests.engine.jobs import _seed_each_layer

SETTINGS = AdamWSettings(learning_rate=1e-2)
Seen = Callable[[int, int], int]
"""From stage and micro-batch to the number of the step's updates that it sees."""


def stashed(num_stages: int, update_every: int = 1) -> Seen:
    """The newest weights that a stage has when 1F1B brings it the micro-batch."""
    return lambda stage, mb: max(0, mb - (num_stages - 1 - stage)) // update_every


def double_buffered(update_every: int) -> Seen:
    """Those of one update before the newest that are sure to be there."""
    return lambda _, mb: max(0, mb // update_every - 1)


def train_asynchronously(model: PretrainedConfig | ModelSource, the_plan: Plan, steps: list[Batch]) -> Any:
    """Answers step losses, norms, each step's losses by micro-batch, the weights after and before, and the copies."""
    source = model if isinstance(model, ModelSource) else ModelSource(model)
    engine = Engine(source, the_plan, SETTINGS)
    losses: list[dict[int, float]] = []

    class Kept(dict[int, torch.Tensor]):
        def clear(self) -> None:
            losses.append({mb: float(loss) for mb, loss in sorted(self.items())})
            super().clear()

    for stage in engine._stages.values():
        stage.losses = Kept()
    start = {n: p.detach().clone() for n, p in engine.parameters.local.items()}
    results = [engine.step(batch) for batch in steps]
    weights = {n: p.detach().clone() for n, p in engine.parameters.local.items()}
    return [r.loss for r in results], [r.grad_norm for r in results], losses, weights, start


def delayed(
    config: PretrainedConfig,
    start: dict[str, torch.Tensor],
    steps: list[Batch],
    microbatches: int,
    update_every: int,
    seen: Seen,
    stage_of: Callable[[str], int],
) -> Any:
    """Every version of the whole model is kept; a micro-batch runs on one put together from its stages' versions."""
    model = AutoModelForCausalLM.from_config(config).train()
    model.load_state_dict(start, strict=not config.tie_word_embeddings)
    seed = _seed_each_layer(model)
    newest = {name: torch.nn.Parameter(p.detach().clone()) for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(newest.values(), lr=SETTINGS.learning_rate, weight_decay=SETTINGS.weight_decay)
    losses, norms, each = [], [], []
    for step, batch in enumerate(steps):
        sizes = [len(x) for x in torch.arange(batch.num_rows).tensor_split(microbatches)]
        pieces = list(zip(batch.input_ids.split(sizes), batch.labels.split(sizes), strict=True))
        history = [{name: p.detach().clone() for name, p in newest.items()}]
        of_microbatch, squares, sum_of_tokens = {}, [], 0.0
        for first in range(0, microbatches, update_every):
            group = range(first, min(first + update_every, microbatches))
            valid = sum(int((pieces[mb][1][:, 1:] != -100).sum()) for mb in group)
            for mb in group:
                with torch.no_grad():
                    for name, parameter in model.named_parameters():
                        parameter.copy_(history[seen(stage_of(name), mb)][name])
                ids, labels = pieces[mb]
                seed(step, mb)
                loss = model(input_ids=ids, labels=labels, num_items_in_batch=valid, use_cache=False).loss
                loss.backward()
                of_microbatch[mb] = loss.item()
                sum_of_tokens += loss.item() * valid
            for name, parameter in model.named_parameters():
                newest[name].grad, parameter.grad = parameter.grad, None
            squares.append(float(torch.nn.utils.get_total_norm([p.grad for p in newest.values()])) ** 2)
            optimizer.step()
            optimizer.zero_grad()
            history.append({name: p.detach().clone() for name, p in newest.items()})
        losses.append(sum_of_tokens / int((batch.labels[:, 1:] != -100).sum()))
        norms.append(math.sqrt(sum(squares) / len(squares)))
        each.append(of_microbatch)
    return losses, norms, each, {name: p.detach() for name, p in newest.items()}
