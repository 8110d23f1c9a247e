"""The engine: runs a plan on a chain, the same in every process of the job."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from headrace.chain.build import ModelSource
from headrace.chain.microbatch import MicroBatch
from headrace.chain.part import Part
from headrace.engine.agree import Agreement, Word
from headrace.engine.batch import Batch
from headrace.engine.channels import Channels
from headrace.engine.failures import naming
from headrace.engine.fit import require_fit
from headrace.engine.forward import EvaluationResult, ForwardRuns
from headrace.engine.generation import check_request, generate
from headrace.engine.interpreter import Interpreter
from headrace.engine.local_update import LocalUpdate, check_asynchronous, mean_loss
from headrace.engine.memory import peak_memory_bytes
from headrace.engine.offload import Offload
from headrace.engine.parameters import Parameters
from headrace.engine.post_validation import PostValidation
from headrace.engine.program import Program
from headrace.engine.result import MadeStep, StepResult
from headrace.engine.stage import Stage
from headrace.engine.timeline import gather_timeline
from headrace.engine.update import AdamWSettings, Update
from headrace.engine.versions import VersionedStage
from headrace.engine.watch import DEFAULT_TIMEOUT_S, Watch
from headrace.plan import Plan
from headrace.schedule import check
from headrace.schedule.padded import keep_first
from headrace.simulate import Timeline


@dataclass
class Engine:
    """A plan at work. Made by every process of the job; `step` is called by all of them with the same batch.

    Under a plan with ``post_validation``, `advance` lets no rank wait for all others between steps.

    Attributes:
        source: The model.
        plan: What to run.
        optimizer_settings: Of AdamW.
        device: Where this rank computes.
        seed: Of the random draws (dropout).
        timeout_s: The longest that a rank waits for another one within a step.
        watch_folder: Where each rank notes what it is at, so that a stuck one can be named; all ranks see it.
    """

    source: ModelSource
    plan: Plan
    optimizer_settings: AdamWSettings
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    timeout_s: float = DEFAULT_TIMEOUT_S
    watch_folder: Path | None = None

    def __post_init__(self) -> None:
        """Builds the local stages and the channels.

        Raises:
            RequestError: The schedule does not hold or does not fit the processes, or what is asked for cannot be had
                with its asynchronous updates.
            PeerLostError: A rank has failed to build its stages.
        """
        layout, self.rank = self.plan.layout, dist.get_rank()
        require_fit(self.plan, self.plan.made_schedule(), dist.get_world_size())
        self._watch = Watch(self.rank, dist.get_world_size(), self.timeout_s, self.watch_folder)
        self._programs: dict[int, Program] = {}
        program = self._program_for(self.plan.microbatches)
        bounds, anatomy = layout.bounds, self.source.anatomy
        stage_of_layer = [s for s in range(layout.num_stages) for _ in range(bounds[s], bounds[s + 1])]
        if program.is_asynchronous:
            check_asynchronous(self.plan, self.optimizer_settings, anatomy, stage_of_layer)
        make_stage = VersionedStage if program.is_asynchronous else Stage
        self._stages = {
            stage: make_stage(
                self._build(bounds[stage], bounds[stage + 1]), program.splits_backward, self.plan.loss_chunks
            )
            for stage, rank in enumerate(layout.placement)
            if rank == self.rank
        }
        if self.plan.offload:
            for stage in self._stages.values():
                stage.offload_to_host(Offload(stage.part.model, self.device))
        self.steps_done = 0
        with self.meeting("to connect its stages"):
            self._connect(stage_of_layer)

    def _connect(self, stage_of_layer: list[int]) -> None:
        """Opens all that joins this rank to the others, which must have come as far."""
        layout, anatomy, ranks = self.plan.layout, self.source.anatomy, list(range(dist.get_world_size()))
        self.parameters = Parameters(
            list(self._stages.values()), anatomy, stage_of_layer, layout.placement, ranks, self.rank
        )
        self._channels = Channels(layout.placement, ranks, self.rank, self.source.dtype, self.device, self._watch)
        self._agreement = Agreement(self.parameters.owned, anatomy.parameter_names, self._watch)
        versioned = {number: stage for number, stage in self._stages.items() if isinstance(stage, VersionedStage)}
        self._local = LocalUpdate(self.parameters, self.optimizer_settings, versioned) if versioned else None
        self._update = self._local or Update(self.parameters, self.optimizer_settings)
        self.optimizer = self._update.optimizer
        self._interpreter = Interpreter(
            self._stages, self._channels, self.rank, self._local.update if self._local else None
        )
        parts = {number: stage.part for number, stage in self._stages.items()}
        self._forward_runs = ForwardRuns(parts, self._channels, layout.placement, ranks, self.rank)
        self._early = PostValidation(self._update) if self.plan.post_validation else None
        self._made: MadeStep | None = None
        self._untold: list[StepResult] = []
        self._hidden_size: int = self.source.config.get_text_config(decoder=True).hidden_size

    def step(self, batch: Batch, learning_rate: float | None = None, stop: bool = False) -> StepResult:
        """Forward, backward and optimizer step of one batch, and its result, waited for.

        Args and errors are those of `advance`.
        """
        return [*self.advance(batch, learning_rate, stop), *self.settle()][-1]

    def advance(self, batch: Batch, learning_rate: float | None = None, stop: bool = False) -> list[StepResult]:
        """Forward, backward and optimizer step of one batch.

        Args:
            batch: All rows of the step, the same on every rank.
            learning_rate: For this step; None keeps the last.
            stop: This rank's wish to stop; any one's wish reaches all.

        Returns:
            The results that are known now and were not told before, the same steps on every rank: that of this
            step, but with ``post_validation`` mostly that of the step before. `settle` tells the rest.

        Raises:
            RunError: An op failed here, or a peer is gone; names rank, stage, op and micro-batch.
        """
        start_s = time.perf_counter()
        loss = self._run(batch, learning_rate)
        self._finish()
        if loss is None:
            loss = self._run(batch, learning_rate)
            assert loss is not None
        with self._watch.waiting("at the end of the step"):
            self.parameters.sum_tied_gradients(self._watch.timeout)
        busy_s = sum(end - begin for _, begin, end in self._interpreter.spans)
        mine = Word(loss, busy_s, float(peak_memory_bytes(self.device)), stop, self._update.norms())
        exchange = self._agreement.start(mine, self.source.dtype)
        early = self._early if self._early is not None and self._early.is_hopeful else None
        if early is None:
            exchange.wait()
        pipe_s = time.perf_counter() - start_s
        self._watch.works(f"the optimizer's step {self.steps_done + 1}")
        stages = ", ".join(map(str, self._stages))
        where = f"rank {self.rank}, step {self.steps_done + 1}: the optimizer's step of stage {stages}"
        with naming(where, self._channels.close):
            if early is None:
                self._update.step(exchange.norm, learning_rate)
            else:
                early.step(exchange, learning_rate)
        self.steps_done += 1
        self._watch.works(f"what follows step {self.steps_done}, such as reading data")
        step_s = time.perf_counter() - start_s
        self._made = MadeStep(self.steps_done, exchange, batch.input_ids.numel(), pipe_s, step_s)
        if early is None:
            return self.settle()
        self._channels.pass_step()
        return self._tell()

    def settle(self) -> list[StepResult]:
        """Waits until the last step is final, and answers its result where `advance` has not; every rank calls it.

        Before it weights and optimizer may be those of an early step that is taken back.
        """
        self._finish()
        self._channels.close_step()
        return self._tell()

    def _tell(self) -> list[StepResult]:
        told, self._untold = self._untold, []
        return told

    def _finish(self) -> None:
        """Waits until the last step is final."""
        if self._made is None:
            return
        made, self._made = self._made, None
        if self._early is not None:
            self._early.settle(made.exchange.norm)
        self._untold.append(made.result())

    def evaluate(self, batch: Batch) -> EvaluationResult:
        """The loss of a batch without dropout; changes nothing that training sees. Every rank must call it.

        Args:
            batch: The same on every rank; may have fewer rows than the plan has micro-batches.

        Raises:
            RunError: An op failed here, or a peer is gone; names rank, stage, op and micro-batch.
        """
        self._finish()
        batches = self._split(batch)
        losses = self._forward_runs.run(batches, self._hidden_size, self.steps_done)
        total = torch.zeros(())
        for loss in losses or ():
            total = total + loss.cpu()
        return EvaluationResult(float(self._forward_runs.tell_all(total)), batch.num_valid_tokens)

    def generate(
        self, prompt_ids: Tensor, num_tokens: int, temperature: float = 0.0, seed: int = 0, end_token: int | None = None
    ) -> Tensor:
        """Goes on from prompts of one length, token by token through the pipeline. Every rank must call it alike.

        Args:
            prompt_ids: ``[rows, length]``.
            num_tokens: The most new tokens of a row.
            temperature: 0 takes the likeliest token; else tokens are drawn, keyed by ``seed`` alone.
            seed: Of the draws.
            end_token: Ends a row, which is filled up with it.

        Returns:
            ``[rows, length + new]``: the prompts and what follows, the same on every rank.

        Raises:
            RequestError: The model has no room for that.
            RunError: An op failed here, or a peer is gone; names rank, stage, op and micro-batch.
        """
        check_request(self.source.config, prompt_ids, num_tokens, temperature)
        self._finish()
        self._finish()

        def next_logits(batches: list[MicroBatch]) -> list[Tensor] | None:
            return self._forward_runs.run(batches, self._hidden_size, self.steps_done)

        tell_all, ids, pieces = self._forward_runs.tell_all, prompt_ids.to(self.device), self.plan.microbatches
        return generate(next_logits, tell_all, ids, num_tokens, pieces, temperature, seed, end_token).cpu()

    def close(self) -> None:
        """Lets go of the channels; the process group is the caller's."""
        self._channels.close()
        self._watch.close()

    @contextmanager
    def meeting(self, why: str) -> Iterator[None]:
        """What all ranks do together outside of a step, such as ``to save step 3``; errors are `Watch.waiting`'s."""
        with self._watch.waiting(why, in_step=False):
            yield
        self._watch.works(f"what follows step {self.steps_done}, such as reading data")

    def persistent_buffers(self) -> dict[str, Tensor]:
        """Buffers that belong to the model's weights, by global name (few types have any)."""
        found: dict[str, Tensor] = {}
        for stage in self._stages.values():
            parameters = dict(stage.part.named_parameters())
            found |= {n: t for n, t in stage.part.model.state_dict().items() if n not in parameters}
        return found

    def timeline(self) -> Timeline:
        """The ops of the last step on all ranks; every rank must call it."""
        self._finish()
        return gather_timeline(self._interpreter.spans, self.rank)

    def _build(self, first: int, stop: int) -> Part:
        part = self.source.build(first, stop, self.device)
        part.recompute = self.plan.recompute
        return part

    def _program_for(self, num_microbatches: int) -> Program:
        if num_microbatches not in self._programs:
            schedule = keep_first(self.plan.made_schedule(), num_microbatches)
            self._programs[num_microbatches] = Program.of(check(schedule), self.rank)
        return self._programs[num_microbatches]

    def _run(self, batch: Batch, learning_rate: float | None) -> float | None:
        """Runs the program; answers the sum of the losses that came out here, added in the order of micro-batches.

        None where the weights turned out to be those of a wrong early step, so that it was in vain.
        """
        program = self._program_for(min(self.plan.microbatches, batch.num_rows))
        batches = self._split(batch, program.update_every)
        if self._local is not None:
            self._local.open_step(program, learning_rate)
        refuted = self._early.refuted if self._early is not None and self._made is not None else None
        if not self._interpreter.run(program, batches, self._hidden_size, self.steps_done + 1, refuted):
            return None
        losses = {mb: loss.cpu() for stage in self._stages.values() for mb, loss in sorted(stage.losses.items())}
        for stage in self._stages.values():
            stage.losses.clear()
        if self._local is not None:
            return mean_loss(losses, batches, batch.num_valid_tokens)
        return float(sum(losses.values(), torch.zeros(())))

    def _split(self, batch: Batch, update_every: int = 0) -> list[MicroBatch]:
        num_microbatches = min(self.plan.microbatches, batch.num_rows)
        batches = batch.split(num_microbatches, self.seed, self.steps_done, update_every)
        return [one.to(self.device) for one in batches]
