"""What the ranks of the engine's tests run, and the plain loop that judges them."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from headrace.chain.build import ModelSource
from headrace.chain.part import draw_seed
from headrace.engine import AdamWSettings, Engine
from headrace.engine.batch import Batch
from headrace.plan import Layout, Plan

SETTINGS = AdamWSettings(learning_rate=1e-3, clip_norm=0.1)


def tiny(model_type: str = "llama", **settings: Any) -> PretrainedConfig:
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 7,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 97,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return AutoConfig.for_model(model_type, **{**sizes, **settings})


def batches(steps: int, rows: int = 8, length: int = 16) -> list[Batch]:
    """Rows with 16, 9, 3 or 1 labels that count, so that a mean of means would show."""
    generator = torch.Generator().manual_seed(5)
    made = []
    for _ in range(steps):
        ids = torch.randint(3, 97, (rows, length), generator=generator)
        labels = ids.clone()
        for row in range(rows):
            labels[row, (length, 9, 3, 2)[row % 4] :] = -100
        made.append(Batch(ids, labels))
    return made


def plan(bounds: tuple[int, ...], schedule: str, microbatches: int, chunks: int = 1, **extra: Any) -> Plan:
    stages = len(bounds) - 1
    pp = stages // chunks
    from headrace.schedule import make_schedule

    placement = make_schedule(schedule, pp, microbatches, chunks).placement
    return Plan(Layout(1, pp, 1, chunks, bounds, placement), schedule, microbatches, 1, **extra)


def train(
    model: PretrainedConfig | ModelSource, the_plan: Plan, steps: list[Batch], settings: AdamWSettings = SETTINGS
) -> Any:
    """Answers losses, norms, the gradients of the last step before clipping, and the weights."""
    engine = Engine(model if isinstance(model, ModelSource) else ModelSource(model), the_plan, settings)
    results, gradients = [], {}
    start = {n: p.detach().clone() for n, p in engine.parameters.local.items()}
    real_norms = engine.parameters.norms

    def norms() -> list[float]:
        gradients.update({n: p.grad.clone() for n, p in engine.parameters.local.items() if p.grad is not None})
        return real_norms()

    engine.parameters.norms = norms
    for batch in steps:
        results.append(engine.step(batch))
    rename = engine.parameters.global_name

    def named(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {rename(n): t for n, t in tensors.items()}

    weights = {n: p.detach().clone() for n, p in engine.parameters.local.items()}
    engine.close()
    return [r.loss for r in results], [r.grad_norm for r in results], named(gradients), named(weights), named(start)


def whole_loss(model: Any, ids: torch.Tensor, labels: torch.Tensor, valid: int) -> torch.Tensor:
    """Forward and backward of one micro-batch as transformers has it."""
    loss = model(input_ids=ids, labels=labels, num_items_in_batch=valid, use_cache=False).loss
    loss.backward()
    return loss.detach()


def plain(*args: Any, **options: Any) -> Any:
    """The judge: losses, norms, the last step's gradients and the weights."""
    return plain_with_moments(*args, **options)[:4]


def plain_with_moments(
    config: PretrainedConfig,
    start: dict[str, torch.Tensor],
    steps: list[Batch],
    microbatches: int,
    dtype: torch.dtype = torch.float32,
    loss_of: Callable[..., torch.Tensor] = whole_loss,
    frozen: frozenset[str] = frozenset(),
    settings: AdamWSettings = SETTINGS,
    poisoned_step: int = -1,
) -> Any:
    """The judge: transformers and torch alone, one process, the same micro-batches in turn.

    The gradients of ``poisoned_step`` are infinite, and a step whose norm is not finite changes nothing.
    """
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).train()
    model.load_state_dict(start, strict=not config.tie_word_embeddings)
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    seed = _seed_each_layer(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    poison(model.named_parameters(), lambda: len(losses) == poisoned_step)
    losses, norms, gradients = [], [], {}
    for step, batch in enumerate(steps):
        valid = int((batch.labels[:, 1:] != -100).sum())
        total = torch.zeros(())
        sizes = [len(x) for x in torch.arange(batch.num_rows).tensor_split(microbatches)]
        for index, (ids, labels) in enumerate(
            zip(batch.input_ids.split(sizes), batch.labels.split(sizes), strict=True)
        ):
            seed(step, index)
            total = total + loss_of(model, ids, labels, valid)
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm or math.inf)))
        if math.isfinite(norms[-1]):
            optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total))
    moments = moments_of(model.named_parameters(), optimizer)
    return losses, norms, gradients, {n: p.detach() for n, p in model.named_parameters()}, moments


def poison(parameters: Iterable[tuple[str, torch.nn.Parameter]], now: Callable[[], bool]) -> None:
    """Makes the gradients of the last norm's weight infinite where ``now()``."""
    for name, parameter in parameters:
        if name == "model.norm.weight" and parameter.requires_grad:
            parameter.register_hook(lambda gradient: gradient * math.inf if now() else gradient)


def moments_of(
    parameters: Iterable[tuple[str, torch.nn.Parameter]], optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """A copy of the optimizer's state by name."""
    return {f"{n} {k}": t.clone() for n, p in parameters for k, t in optimizer.state.get(p, {}).items()}


def _seed_each_layer(model: Any) -> Callable[[int, int], None]:
    """Draws as the promise says: keyed by (seed 0, step, micro-batch, layer), the embedding being layer 0."""
    now = [0, 0]

    def seed(layer: int) -> None:
        torch.manual_seed(draw_seed(0, *now, layer))

    layers = getattr(model.base_model, "h", None) or model.base_model.layers
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(lambda *_, n=index + 1: seed(n))

    def begin(step: int, microbatch: int) -> None:
        now[:] = [step, microbatch]
        seed(0)

    return begin
