"""All channels of one rank: for each edge that touches its stages an inbox, an outbox, or a hand-over in memory."""

from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from headrace.chain.microbatch import MicroBatch
from headrace.engine.program import Program
from headrace.engine.transport import Inbox, Local, Outbox
from headrace.errors import PeerLostError
from headrace.schedule import Transfer


class Channels:
    """Delivers what `Transfer` names."""

    def __init__(
        self, placement: tuple[int, ...], ranks: list[int], rank: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Makes a process group for each directed edge; every rank must call it.

        Args:
            placement: Pipeline rank of each stage.
            ranks: Global ranks of this pipeline.
            rank: This process's place in it.
            dtype: Of the hidden state.
            device: Where received tensors lie.
        """
        self._inboxes: dict[tuple[int, int], Inbox | Local] = {}
        self._outboxes: dict[tuple[int, int], Outbox | Local] = {}
        self.timeout = timedelta(minutes=10)
        last = len(placement) - 1
        edges = [(s, s + 1) for s in range(last)] + [(s + 1, s) for s in range(last)]
        for edge in edges:
            source, target = placement[edge[0]], placement[edge[1]]
            if source == target:
                if source == rank:
                    self._inboxes[edge] = self._outboxes[edge] = Local()
                continue
            group = dist.new_group([ranks[source], ranks[target]])
            if rank == source:
                self._outboxes[edge] = Outbox(ranks[target], group)
            elif rank == target:
                self._inboxes[edge] = Inbox(ranks[source], group, dtype, device)

    def open_step(self, program: Program, batches: list[MicroBatch], hidden_size: int) -> None:
        """Announces the step's messages to the inboxes."""
        for edge, microbatches in program.expected().items():
            inbox = self._inboxes[edge]
            assert isinstance(inbox, Inbox)
            inbox.expect((mb, (*batches[mb].shape, hidden_size)) for mb in microbatches)

    def take(self, transfer: Transfer) -> Tensor:
        """Waits for what ``transfer`` names.

        Raises:
            PeerLostError: The peer is gone, or did not answer in time.
        """
        try:
            inbox = self._inboxes[transfer.source_stage, transfer.target_stage]
            return inbox.take(transfer.microbatch, self.timeout)
        except RuntimeError as error:
            raise PeerLostError(
                f"rank {transfer.target_rank} (stage {transfer.target_stage}) waited for the {transfer.what} of "
                f"micro-batch {transfer.microbatch} from rank {transfer.source_rank} (stage {transfer.source_stage}), "
                f"which is gone or stuck: {str(error).splitlines()[0]}"
            ) from error

    def put(self, transfer: Transfer, tensor: Tensor) -> None:
        """Sends what ``transfer`` names.

        Raises:
            PeerLostError: The peer is gone.
        """
        try:
            self._outboxes[transfer.source_stage, transfer.target_stage].put(tensor)
        except RuntimeError as error:
            raise PeerLostError(
                f"rank {transfer.source_rank} (stage {transfer.source_stage}) could not send the {transfer.what} of "
                f"micro-batch {transfer.microbatch} to rank {transfer.target_rank}: {str(error).splitlines()[0]}"
            ) from error

    def close_step(self) -> None:
        """Waits for the last sends, whose receivers have finished their step."""
        for outbox in self._outboxes.values():
            if isinstance(outbox, Outbox):
                outbox.flush()
