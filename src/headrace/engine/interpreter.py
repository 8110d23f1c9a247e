"""Runs one rank's program: receives what each op needs, runs it on its stage, sends on what it made."""

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor

from headrace.chain.microbatch import MicroBatch
from headrace.engine.channels import Channels
from headrace.engine.failures import located
from headrace.engine.program import Line, Program
from headrace.engine.stage import Stage
from headrace.errors import HeadraceError
from headrace.schedule import Op, Transfer


class Interpreter:
    """The loop over a program's lines; nothing else decides what runs when.

    Attributes:
        spans: ``(op, start, end)`` of the last run, in seconds of `time.perf_counter`.
    """

    def __init__(
        self, stages: dict[int, Stage], channels: Channels, rank: int, update: Callable[[int], None] | None = None
    ) -> None:
        """Takes the local stages by number, the channels to the others, and what updates a stage under way."""
        self.spans: list[tuple[Op, float, float]] = []
        self._stages, self._channels, self._rank, self._update_stage = stages, channels, rank, update

    def run(
        self,
        program: Program,
        batches: list[MicroBatch],
        hidden_size: int,
        step: int,
        refuted: Callable[[], bool] | None = None,
    ) -> bool:
        """Runs every op of ``program`` once.

        Args:
            program: What this rank does.
            batches: The micro-batches of the step.
            hidden_size: Numbers of one token's hidden state.
            step: Counted from 1, for messages to people.
            refuted: Where the weights may turn out wrong: waits until it is known, and answers whether they did. It is
                asked before the first backward, when all ranks have begun the step and so have ended the one before.

        Returns:
            Whether the run is good: with wrong weights it is void, and has left nothing but its messages.

        Raises:
            RunError: An op failed here, or a peer is gone; names rank, stage, op and micro-batch.
        """
        channels, spans, updates, clock = self._channels, self.spans, program.updates, time.perf_counter
        spans.clear()
        op = program.lines[0][0]
        try:
            with _collector_paused():
                channels.open_step(program, batches, hidden_size)
                for index, (op, needed, made) in enumerate(program.lines):
                    if refuted is not None and op.kind != "F":
                        if refuted():
                            self._pass_on(program.lines[index:], batches, hidden_size, step)
                            return False
                        refuted = None
                    received = None if needed is None else self._take(op, needed, step)
                    channels.watch.works(f"{op} of step {step}")
                    begin_s = clock()
                    try:
                        output = self._run(op, received, batches[op.microbatch], step)
                    except HeadraceError:
                        if refuted is None or not refuted():
                            raise
                        self._pass_on(((op, None, made), *program.lines[index + 1 :]), batches, hidden_size, step)
                        return False
                    spans.append((op, begin_s, clock()))
                    if made is not None:
                        assert output is not None
                        channels.put(made, output)
                    if updates and op in updates:  # After the sending, for which another rank waits.
                        self._update(op, step)
                        spans[-1] = (op, begin_s, clock())
        except BaseException as error:
            channels.close()  # Neighbours that wait for this rank learn of it now, not when its process has ended.
            if not isinstance(error, Exception) or isinstance(error, HeadraceError):
                raise
            raise located(error, f"rank {self._rank}, step {step}: {op}") from error
        return True

    def _take(self, op: Op, needed: Transfer, step: int) -> Tensor:
        if not needed.is_local:
            what, peer = f"the {needed.what} of micro-batch {needed.microbatch}", needed.source_rank
            self._channels.watch.waits(f"at {op} of step {step} for {what} from rank {peer}", peer)
        return self._channels.take(needed)

    def _pass_on(self, lines: Iterable[Line], batches: list[MicroBatch], hidden_size: int, step: int) -> None:
        """Ends a void run: computes nothing, but takes and sends what the other ranks count on."""
        for op, needed, made in lines:
            if needed is not None:
                self._take(op, needed, step)
            if made is not None:
                self._channels.put_blank(made, (*batches[op.microbatch].shape, hidden_size))
        for stage in self._stages.values():
            stage.clear()

    def _update(self, op: Op, step: int) -> None:
        assert self._update_stage is not None
        try:
            self._update_stage(op.stage)
        except Exception as error:
            raise located(error, f"rank {self._rank}, step {step}: the update after {op}") from error

    def _run(self, op: Op, received: Tensor | None, batch: MicroBatch, step: int) -> Tensor | None:
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
        except Exception as error:
            raise located(error, f"rank {self._rank}, step {step}: {op}") from error


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Python's collector waits outside: a pause on one rank would be a bubble on all."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
