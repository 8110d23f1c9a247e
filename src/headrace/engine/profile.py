"""Measured costs: the real layers on the real device, run as the engine runs them."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from headrace.chain import RecomputeMode
from headrace.chain.build import ModelSource
from headrace.chain.microbatch import MicroBatch
from headrace.chain.part import Part
from headrace.costs import Costs, LayerCosts, LinkCosts
from headrace.engine.born import Born, Peak
from headrace.engine.stage import Stage
from headrace.errors import RequestError

Progress = Callable[[int, int, str], None]

REPEATS = 5
LONG_S = 0.5
"""Micro-batches that take a layer longer than this are not measured but extrapolated from smaller ones."""


class Profiler:
    """Prices of a model's layers on one device, by rows of a micro-batch; each kind of layer is measured once.

    Rows that are powers of two are measured, the others lie on the line through their neighbours.
    """

    def __init__(
        self, source: ModelSource, sequence_length: int, device: torch.device, link: LinkCosts, progress: Progress
    ) -> None:
        """Measures nothing yet.

        Args:
            source: The model.
            sequence_length: Tokens of a row.
            device: Where to measure.
            link: Price of a message, passed on.
            progress: Told what is being measured.
        """
        self._source, self._length, self._device = source, sequence_length, device
        self._link, self._progress = link, progress
        self._chain = source.chain()
        self._measured = cache(self._measure)

    def __call__(self, rows: int) -> Costs:
        """Prices at micro-batches of ``rows`` rows."""
        low = 1 << (rows.bit_length() - 1)
        while low > 1 and self._is_long(low // 2):
            low //= 2
        if low == rows:
            return self._measured(rows)
        high = low * 2
        if self._is_long(low):
            low, high = max(low // 2, 1), low
        if low == high:
            return _scaled(self._measured(low), rows / low)
        return _line(self._measured(low), self._measured(high), (rows - low) / (high - low))

    def _is_long(self, rows: int) -> bool:
        return max(layer.f_s + layer.i_s + layer.w_s for layer in self._measured(rows).layers) > LONG_S

    def _measure(self, rows: int) -> Costs:
        chain, length = self._chain, self._length
        batch = _random_batch(chain.vocab_size, rows, length, self._device)
        shape = (rows, length, chain.hidden_size)
        gradient = torch.randn(shape, dtype=self._source.dtype, device=self._device)
        nothing = self._source.build(1, 1, self._device)
        shared_bytes = _shared_bytes(nothing, batch, gradient)
        empty = _time(Stage(nothing, split_backward=True), batch, gradient)
        by_kind: dict[str, LayerCosts] = {}
        kinds = {layer.kind: index for index, layer in reversed(list(enumerate(chain.layers)))}
        optimizer_s_per_byte = 0.0
        for done, (kind, index) in enumerate(kinds.items()):
            self._progress(done, len(kinds), f"measuring {rows} x {length} tokens")
            part = self._source.build(index, index + 1, self._device)
            stage = Stage(part, split_backward=True)
            times = self._try(index, stage, batch, gradient)
            if part.compiled_layers:  # What its ops keep cannot be watched; as it is it keeps no less.
                stage = Stage(replace(self._source, compile_backend=None).build(index, index + 1, self._device), True)
            saved_bytes, weight_saved_bytes = _kept_bytes(stage, batch, gradient)
            again_s, freed_bytes = 0.0, 0
            if part.local_layers() and not part.compiled_layers:
                selective: RecomputeMode = "selective"
                part.recompute = (selective,) * part.anatomy.num_layers
                again_s = sum(_time(stage, batch, gradient)[:2]) - sum(times[:2])
                freed_bytes = saved_bytes - _kept_bytes(stage, batch, gradient)[0]
            by_kind[kind] = LayerCosts(
                f_s=max(times[0] - empty[0], 0.0),
                i_s=max(times[1] - empty[1], 0.0),
                w_s=times[2],
                parameter_bytes=chain.layers[index].num_parameters * chain.dtype_bytes,
                saved_bytes=saved_bytes,
                weight_saved_bytes=weight_saved_bytes,
                output_bytes=rows * length * chain.hidden_size * chain.dtype_bytes,
                selective_s=max(again_s, 0.0),
                selective_freed_bytes=max(freed_bytes, 0),
                working_bytes=_logits_bytes(stage, batch, gradient) if part.has_head else 0,
            )
            if not optimizer_s_per_byte and index > 0:
                optimizer_s_per_byte = _time_optimizer(part)
        self._progress(len(kinds), len(kinds), f"measuring {rows} x {length} tokens")
        layers = tuple(by_kind[layer.kind] for layer in chain.layers)
        return Costs(layers, self._link, empty[0], empty[1], optimizer_s_per_byte, "measured", shared_bytes)

    def _try(self, index: int, stage: Stage, batch: MicroBatch, gradient: Tensor) -> tuple[float, float, float]:
        try:
            return _time(stage, batch, gradient)
        except (RuntimeError, ValueError, IndexError) as error:  # A configuration that its class took, and is wrong.
            raise RequestError(
                f"{self._chain.layers[index].name} of this {self._chain.model_type} fails on {len(batch.input_ids)} x "
                f"{self._length} tokens: {type(error).__name__}: {str(error).splitlines()[0]}; change model.config"
            ) from error


def _random_batch(vocab_size: int, rows: int, length: int, device: torch.device) -> MicroBatch:
    ids = torch.randint(0, vocab_size, (rows, length), device=device)
    return MicroBatch(ids, ids, rows * (length - 1))


def _time(stage: Stage, batch: MicroBatch, gradient: Tensor) -> tuple[float, float, float]:
    """Median seconds of F, I and W."""

    def once() -> tuple[float, float, float]:
        hidden = None if stage.part.has_embedding else torch.randn_like(gradient)
        clock = _Clock(batch.input_ids.device)
        output = stage.forward(0, hidden, batch)
        f_s = clock.lap_s()
        stage.input_backward(0, None if output is None else gradient)
        i_s = clock.lap_s()
        stage.weight_backward(0)
        return f_s, i_s, clock.lap_s()

    laps = [once() for _ in range(REPEATS + 2)][2:]
    f_s, i_s, w_s = (statistics.median(lap) for lap in zip(*laps, strict=True))
    return f_s, i_s, w_s


class _Clock:
    """Seconds of what the device has done."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last_s = self._now_s()

    def lap_s(self) -> float:
        """Since the last call."""
        now_s = self._now_s()
        lap_s, self._last_s = now_s - self._last_s, now_s
        return lap_s

    def _now_s(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def _time_optimizer(part: Part) -> float:
    """Seconds of the optimizer for a byte of parameters that learn; 0 where none do."""
    parameters = [p for _, p in part.named_parameters() if p.requires_grad]
    if not parameters:
        return 0.0
    optimizer = torch.optim.AdamW(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)

    def once() -> float:
        clock = _Clock(parameters[0].device)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return clock.lap_s()

    num_bytes = sum(p.numel() * p.element_size() for p in parameters)
    return statistics.median([once() for _ in range(REPEATS + 1)][1:]) / num_bytes


def _kept_bytes(stage: Stage, batch: MicroBatch, gradient: Tensor) -> tuple[int, int]:
    """Bytes that are kept of a layer and one micro-batch after F, and after I, each memory once."""
    part = stage.part
    hidden = None if part.has_embedding else torch.randn_like(gradient)
    input_bytes = 0 if hidden is None else hidden.nbytes
    born, marks = Born(), [0]
    hooks = [
        part.layer(index).register_forward_pre_hook(lambda *_: marks.append(len(born))) for index in part.local_layers()
    ]
    with born:
        stage.forward(0, hidden, batch)
        stage.losses.clear()
        saved_bytes = input_bytes + born.alive_bytes(marks[-1])
        part.model.zero_grad(set_to_none=False)
        stage.input_backward(0, None if part.has_head else gradient.clone())  # W may keep it.
    del hidden
    weight_saved_bytes = born.alive_bytes(marks[-1])
    stage.weight_backward(0)
    for hook in hooks:
        hook.remove()
    return saved_bytes, weight_saved_bytes


def _logits_bytes(stage: Stage, batch: MicroBatch, gradient: Tensor) -> int:
    """The most that a head has alive at a time in I, on top of what it kept: logits and their gradients."""
    peak = Peak()
    stage.forward(0, torch.randn_like(gradient), batch)
    with peak:
        stage.input_backward(0, None)
    stage.weight_backward(0)
    return peak.most_bytes


def _shared_bytes(empty: Part, batch: MicroBatch, hidden: Tensor) -> int:
    """What the layers are handed beside the hidden state (masks, rotary tables), each memory once."""
    found: dict[int, int] = {}

    def note(_: nn.Module, *handed: Any) -> None:
        storages = [one.untyped_storage() for one in tree_leaves(handed) if isinstance(one, Tensor)]
        found.update({storage.data_ptr(): storage.nbytes() for storage in storages})

    layers = [empty.layer(index) for index in range(empty.anatomy.num_layers)]
    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    empty.forward(hidden, batch)
    for hook in hooks:
        hook.remove()
    found.pop(hidden.untyped_storage().data_ptr(), None)
    return sum(found.values())


def _line(low: Costs, high: Costs, share: float) -> Costs:
    """The point at ``share`` of the way from ``low`` to ``high``, also beyond it."""

    def between(a: float, b: float) -> float:
        return max(a + (b - a) * share, 0.0)

    layers = tuple(
        LayerCosts(
            between(a.f_s, b.f_s),
            between(a.i_s, b.i_s),
            between(a.w_s, b.w_s),
            a.parameter_bytes,
            round(between(a.saved_bytes, b.saved_bytes)),
            round(between(a.weight_saved_bytes, b.weight_saved_bytes)),
            round(between(a.output_bytes, b.output_bytes)),
            between(a.selective_s, b.selective_s),
            round(between(a.selective_freed_bytes, b.selective_freed_bytes)),
            round(between(a.working_bytes, b.working_bytes)),
        )
        for a, b in zip(low.layers, high.layers, strict=True)
    )
    stage_f_s, stage_i_s = between(low.stage_f_s, high.stage_f_s), between(low.stage_i_s, high.stage_i_s)
    stage_saved_bytes = round(between(low.stage_saved_bytes, high.stage_saved_bytes))
    return Costs(layers, low.link, stage_f_s, stage_i_s, low.optimizer_s_per_byte, low.source, stage_saved_bytes)


def _scaled(costs: Costs, factor: float) -> Costs:
    """Everything that grows with the rows times ``factor``: where not even one row may be measured twice."""
    nothing = Costs(
        tuple(LayerCosts(0.0, 0.0, 0.0, layer.parameter_bytes, 0, 0, 0) for layer in costs.layers),
        costs.link,
        costs.stage_f_s,
        costs.stage_i_s,
        costs.optimizer_s_per_byte,
        costs.source,
    )
    return _line(nothing, costs, factor)
