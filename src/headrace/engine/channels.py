"""All channels of one rank: for each edge that touches its stages an inbox, an outbox, or a hand-over in memory."""

import uuid

import torch
import torch.distributed as dist
from torch import Tensor

from headrace.chain.microbatch import MicroBatch
from headrace.engine.failures import is_of_peer
from headrace.engine.program import Program
from headrace.engine.shared_memory import SharedInbox, SharedOutbox, connect, listen, machine_identity
from headrace.engine.transport import Inbox, Local, Outbox
from headrace.engine.watch import Watch
from headrace.errors import PeerLostError
from headrace.schedule import Transfer

Edge = tuple[int, int]


class Channels:
    """Delivers what `Transfer` names: in memory, through shared memory, or over a process group of the edge's own."""

    def __init__(
        self,
        placement: tuple[int, ...],
        ranks: list[int],
        rank: int,
        dtype: torch.dtype,
        device: torch.device,
        watch: Watch,
    ) -> None:
        """Opens a channel for each directed edge; every rank must call it.

        Args:
            placement: Pipeline rank of each stage.
            ranks: Global ranks of this pipeline.
            rank: This process's place in it.
            dtype: Of the hidden state.
            device: Where received tensors lie.
            watch: Told of each wait; says how long one may be.
        """
        self._inboxes: dict[Edge, Inbox | SharedInbox | Local] = {}
        self._outboxes: dict[Edge, Outbox | SharedOutbox | Local] = {}
        self.watch = watch
        self._dtype, self._device = dtype, device
        last = len(placement) - 1
        edges = [(s, s + 1) for s in range(last)] + [(s + 1, s) for s in range(last)]
        ends = {edge: (placement[edge[0]], placement[edge[1]]) for edge in edges}
        machines = _machines(device)
        shared = {
            e
            for e, (a, b) in ends.items()
            if a != b and machines[ranks[a]] and machines[ranks[a]] == machines[ranks[b]]
        }
        self._open_shared({edge: ends[edge] for edge in shared}, rank, dtype)
        for edge, (source, target) in ends.items():
            if source == target:
                if source == rank:
                    self._inboxes[edge] = self._outboxes[edge] = Local()
            elif edge not in shared:
                group = dist.new_group([ranks[source], ranks[target]])
                if rank == source:
                    self._outboxes[edge] = Outbox(ranks[target], group)
                elif rank == target:
                    self._inboxes[edge] = Inbox(ranks[source], group, dtype, device)

    def _open_shared(self, ends: dict[Edge, tuple[int, int]], rank: int, dtype: torch.dtype) -> None:
        names = [uuid.uuid4().hex]
        dist.broadcast_object_list(names)
        servers = {e: listen(f"{names[0]} {e}") for e, (_, target) in ends.items() if target == rank}
        dist.barrier()
        for edge, (source, _) in ends.items():
            if source == rank:
                self._outboxes[edge] = SharedOutbox(connect(f"{names[0]} {edge}"))
        for edge, server in servers.items():
            self._inboxes[edge] = SharedInbox(server.accept()[0], dtype)
            server.close()

    def open_step(self, program: Program, batches: list[MicroBatch], hidden_size: int) -> None:
        """Announces the step's messages to the inboxes."""
        for edge, microbatches in program.expected().items():
            inbox = self._inboxes[edge]
            assert not isinstance(inbox, Local)
            inbox.expect((mb, (*batches[mb].shape, hidden_size)) for mb in microbatches)

    def take(self, transfer: Transfer) -> Tensor:
        """Waits for what ``transfer`` names.

        Raises:
            PeerLostError: The peer is gone.
            StuckError: It did not answer in time.
        """
        inbox = self._inboxes[transfer.source_stage, transfer.target_stage]
        try:
            return inbox.take(transfer.microbatch, self.watch.timeout)
        except (RuntimeError, OSError) as error:
            if not is_of_peer(error):
                raise
            raise self.watch.lost(
                f"rank {transfer.target_rank} (stage {transfer.target_stage}) waited for the {transfer.what} of "
                f"micro-batch {transfer.microbatch} from rank {transfer.source_rank} (stage {transfer.source_stage})",
                error,
            ) from error

    def put(self, transfer: Transfer, tensor: Tensor) -> None:
        """Sends what ``transfer`` names.

        Raises:
            PeerLostError: The peer is gone.
        """
        try:
            self._outboxes[transfer.source_stage, transfer.target_stage].put(transfer.microbatch, tensor)
        except (RuntimeError, OSError) as error:
            if not is_of_peer(error):
                raise
            raise PeerLostError(
                f"rank {transfer.source_rank} (stage {transfer.source_stage}) could not send the {transfer.what} of "
                f"micro-batch {transfer.microbatch} to rank {transfer.target_rank}: {str(error).splitlines()[0]}"
            ) from error

    def put_blank(self, transfer: Transfer, shape: tuple[int, ...]) -> None:
        """Sends zeros in the place of what ``transfer`` names."""
        self.put(transfer, torch.zeros(shape, dtype=self._dtype, device=self._device))

    def pass_step(self) -> None:
        """The last step is over here, and the one before it on all ranks: lets go of what that one has sent."""
        for outbox in self._outboxes.values():
            if isinstance(outbox, Outbox):
                outbox.pass_step()

    def close_step(self) -> None:
        """Waits for the last sends, whose receivers have finished their step."""
        for outbox in self._outboxes.values():
            if not isinstance(outbox, Local):
                outbox.flush()

    def close(self) -> None:
        """Closes what this process has opened beside its process groups; peers that still wait learn of it."""
        for box in (*self._inboxes.values(), *self._outboxes.values()):
            if isinstance(box, (SharedInbox, SharedOutbox)):
                box.close()


def _machines(device: torch.device) -> list[str]:
    """What `machine_identity` says on each rank; nothing on a device whose memory is its own."""
    everyone = [""] * dist.get_world_size()
    dist.all_gather_object(everyone, machine_identity() if device.type == "cpu" else "")
    return everyone
