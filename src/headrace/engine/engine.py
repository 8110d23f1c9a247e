"""The engine: runs a plan on a chain, the same in every process of the job."""

import gc
import time
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from headrace.chain.build import ModelSource
from headrace.chain.microbatch import MicroBatch
from headrace.engine.agree import Agreement, Word
from headrace.engine.batch import Batch
from headrace.engine.channels import Channels
from headrace.engine.memory import peak_memory_bytes
from headrace.engine.parameters import Parameters
from headrace.engine.program import Program
from headrace.engine.stage import Stage
from headrace.errors import HeadraceError, PeerLostError, RunError
from headrace.plan import Plan
from headrace.schedule import Op, check
from headrace.schedule.padded import keep_first
from headrace.simulate import Span, Timeline


@dataclass(frozen=True)
class AdamWSettings:
    """Of ``torch.optim.AdamW``, and the norm that gradients are clipped to (None: not at all)."""

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float | None = None


@dataclass(frozen=True)
class StepResult:
    """One optimizer step; the same on every rank.

    Attributes:
        loss: Mean over all valid tokens of the step.
        grad_norm: Global norm of the gradients, before clipping.
        skipped: Whether the norm was not finite, so that no weight was changed.
        num_tokens: Tokens of the batch.
        step_s: Seconds on this rank.
        idle_share: Share of all ranks' time, from the first forward to the last backward, without an op running.
        peak_memory_bytes: Per rank.
        stop: Whether any rank was asked to stop.
    """

    loss: float
    grad_norm: float
    skipped: bool
    num_tokens: int
    step_s: float
    idle_share: float
    peak_memory_bytes: tuple[int, ...]
    stop: bool


@dataclass
class Engine:
    """A plan at work. Made by every process of the job; `step` is called by all of them with the same batch.

    Attributes:
        source: The model.
        plan: What to run.
        optimizer_settings: Of AdamW.
        device: Where this rank computes.
        seed: Of the random draws (dropout).
    """

    source: ModelSource
    plan: Plan
    optimizer_settings: AdamWSettings
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0

    def __post_init__(self) -> None:
        """Builds the local stages and the channels.

        Raises:
            RequestError: The schedule does not hold.
        """
        layout, self.rank = self.plan.layout, dist.get_rank()
        self._programs: dict[int, Program] = {}
        ranks = list(range(dist.get_world_size()))
        program = self._program_for(self.plan.microbatches)
        bounds = layout.bounds
        self._stages = {
            stage: Stage(
                self.source.build(bounds[stage], bounds[stage + 1], self.device),
                program.splits_backward,
                self.plan.recompute == "full",
            )
            for stage, rank in enumerate(layout.placement)
            if rank == self.rank
        }
        stage_of_layer = [s for s in range(layout.num_stages) for _ in range(bounds[s], bounds[s + 1])]
        anatomy = self.source.anatomy
        self.parameters = Parameters(
            list(self._stages.values()), anatomy, stage_of_layer, layout.placement, ranks, self.rank
        )
        self._channels = Channels(layout.placement, ranks, self.rank, self.source.dtype, self.device)
        self._agreement = Agreement(self.parameters.owned, anatomy.parameter_names)
        settings = self.optimizer_settings
        self.optimizer = torch.optim.AdamW(
            [p for p in self.parameters.local.values() if p.requires_grad],
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )
        self.steps_done = 0
        self._spans: list[tuple[Op, float, float]] = []
        self._sync()

    def step(self, batch: Batch, learning_rate: float | None = None, stop: bool = False) -> StepResult:
        """Forward, backward and optimizer step of one batch.

        Args:
            batch: All rows of the step, the same on every rank.
            learning_rate: For this step; None keeps the last.
            stop: This rank's wish to stop; any one's wish reaches all.

        Raises:
            RunError: An op failed here, or a peer is gone; names rank, stage, op and micro-batch.
        """
        start_s = time.perf_counter()
        loss, grad_dtype = self._run_ops(batch), self.source.dtype
        self.parameters.sum_tied_gradients()
        busy_s = sum(end - begin for _, begin, end in self._spans)
        mine = Word(loss, busy_s, float(peak_memory_bytes(self.device)), stop, self.parameters.norms())
        words = self._exchange(mine)
        pipe_s = time.perf_counter() - start_s
        norm = self._agreement.total_norm(words, grad_dtype)
        skipped = not bool(torch.isfinite(norm))
        if not skipped:
            self._update(norm, learning_rate)
        self.optimizer.zero_grad(set_to_none=True)
        self._channels.close_step()
        self.steps_done += 1
        return StepResult(
            loss=sum(word.loss for word in words),
            grad_norm=float(norm),
            skipped=skipped,
            num_tokens=batch.input_ids.numel(),
            step_s=time.perf_counter() - start_s,
            idle_share=1.0 - sum(word.busy_s for word in words) / (len(words) * pipe_s),
            peak_memory_bytes=tuple(int(word.peak_memory_bytes) for word in words),
            stop=any(word.stop for word in words),
        )

    def close(self) -> None:
        """Lets go of the channels; the process group is the caller's."""
        self._channels.close()

    def persistent_buffers(self) -> dict[str, Tensor]:
        """Buffers that belong to the model's weights, by global name (few types have any)."""
        found: dict[str, Tensor] = {}
        for stage in self._stages.values():
            parameters = dict(stage.part.named_parameters())
            found |= {n: t for n, t in stage.part.model.state_dict().items() if n not in parameters}
        return found

    def timeline(self) -> Timeline:
        """The ops of the last step on all ranks; every rank must call it."""
        mine = [Span(self.rank, op, a - self._sync_s, b - self._sync_s) for op, a, b in self._spans]
        everyone: list[list[Span]] = [[]] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
        spans = tuple(span for spans in everyone for span in spans)
        start_s, end_s = min(s.start_s for s in spans), max(s.end_s for s in spans)
        return Timeline(len(everyone), spans, start_s, end_s)

    def _program_for(self, num_microbatches: int) -> Program:
        if num_microbatches not in self._programs:
            schedule = keep_first(self.plan.made_schedule(), num_microbatches)
            self._programs[num_microbatches] = Program.of(check(schedule), self.rank)
        return self._programs[num_microbatches]

    def _sync(self) -> None:
        """Lets all ranks' clocks start together: the zero of the spans of the next step."""
        dist.barrier()
        self._next_sync_s = time.perf_counter()

    def _exchange(self, mine: Word) -> list[Word]:
        try:
            words = self._agreement.exchange(mine)
        except RuntimeError as error:
            first = str(error).splitlines()[0]
            raise PeerLostError(
                f"rank {self.rank} waited for the other ranks at the end of the step: {first}"
            ) from error
        self._sync_s, self._next_sync_s = self._next_sync_s, time.perf_counter()
        return words

    def _run_ops(self, batch: Batch) -> float:
        """Runs the program; answers the sum of the losses that came out here, added in the order of micro-batches.

        Python's collector waits outside: a pause on one rank would be a bubble on all.
        """
        num_microbatches = min(self.plan.microbatches, batch.num_rows)
        program = self._program_for(num_microbatches)
        batches = [_to(b, self.device) for b in batch.split(num_microbatches, self.seed, self.steps_done)]
        hidden_size = self.source.config.get_text_config(decoder=True).hidden_size
        self._channels.open_step(program, batches, hidden_size)
        self._spans.clear()
        gc.disable()
        try:
            for op, needed, made in program.lines:
                received = None if needed is None else self._channels.take(needed)
                begin_s = time.perf_counter()
                output = self._run(op, received, batches[op.microbatch])
                self._spans.append((op, begin_s, time.perf_counter()))
                if made is not None:
                    assert output is not None
                    self._channels.put(made, output)
        except BaseException:
            self.close()  # Neighbours that wait for this rank learn of it now, not when its process has ended.
            raise
        finally:
            gc.enable()
        total = torch.zeros(())
        for stage in self._stages.values():
            for microbatch in sorted(stage.losses):
                total = total + stage.losses[microbatch].cpu()
            stage.losses.clear()
        return float(total)

    def _run(self, op: Op, received: Tensor | None, batch: MicroBatch) -> Tensor | None:
        stage = self._stages[op.stage]
        try:
            if op.kind == "F":
                return stage.forward(op.microbatch, received, batch)
            if op.kind == "B":
                return stage.backward(op.microbatch, received)
            if op.kind == "I":
                return stage.input_backward(op.microbatch, received)
            stage.weight_backward(op.microbatch)
            return None
        except HeadraceError:
            raise
        except Exception as error:  # Whatever model code raises, the person must learn where.
            raise RunError(
                f"rank {self.rank}, step {self.steps_done + 1}: {op} failed: {type(error).__name__}: {error}"
            ) from error

    def _update(self, norm: Tensor, learning_rate: float | None) -> None:
        if learning_rate is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
        if (limit := self.optimizer_settings.clip_norm) is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters.local.values(), limit, norm)
        self.optimizer.step()


def _to(batch: MicroBatch, device: torch.device) -> MicroBatch:
    def move(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(device)

    return MicroBatch(
        batch.input_ids.to(device),
        batch.labels.to(device),
        batch.num_valid_tokens,
        move(batch.attention_mask),
        move(batch.position_ids),
        batch.key,
    )
