"""One rank's parameters by global name, and the two copies of a tied one kept equal."""

from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from headrace.chain.anatomy import Anatomy
from headrace.engine.stage import Stage


class Parameters:
    """What the optimizer of one rank steps.

    A tied embedding is held by both end stages. On one rank the two share their memory and each has a gradient of its
    own; on two ranks both step with the summed gradient and stay equal. Either way the sum is that of two complete
    sums over micro-batches, so it has the same bits in every layout.

    Attributes:
        local: Parameters by global name; of a tied one on one rank only the owner.
        owned: The names of ``local`` that count in the norm and are saved by this rank, in the model's order.
    """

    def __init__(
        self,
        stages: list[Stage],
        anatomy: Anatomy,
        stage_of_layer: list[int],
        placement: tuple[int, ...],
        ranks: list[int],
        rank: int,
    ) -> None:
        """Finds the local parameters and ties the two ends; every rank must call it."""
        held = {name: p for stage in stages for name, p in stage.part.named_parameters()}
        self._pairs_here: list[tuple[nn.Parameter, nn.Parameter]] = []
        self._pairs_apart: list[tuple[nn.Parameter | None, int, dist.ProcessGroup]] = []
        self._copies: dict[str, str] = {}
        for copy, owner in anatomy.tied:
            copy_rank = placement[stage_of_layer[anatomy.layer_of(copy)]]
            owner_rank = placement[stage_of_layer[anatomy.layer_of(owner)]]
            if copy_rank == owner_rank:
                if rank == owner_rank:
                    twin = held.pop(copy)
                    twin.data = held[owner].data
                    self._pairs_here.append((held[owner], twin))
                continue
            group = dist.new_group([ranks[owner_rank], ranks[copy_rank]])
            if rank in (owner_rank, copy_rank):
                name = owner if rank == owner_rank else copy
                self._pairs_apart.append((held[name], ranks[owner_rank], group))
            if rank == copy_rank:
                self._copies[copy] = owner
        self.local = held
        self.owned = [n for n in anatomy.parameter_names if n in held]
        self.share_tied_values()

    def global_name(self, name: str) -> str:
        """The name under which a local parameter is saved: the owner's for a copy."""
        return self._copies.get(name, name)

    def share_tied_values(self) -> None:
        """Makes the copy on another rank equal to its owner; after drawing or loading."""
        for parameter, owner_rank, group in self._pairs_apart:
            assert parameter is not None
            dist.broadcast(parameter.data, owner_rank, group=group)

    @torch.no_grad()
    def sum_tied_gradients(self, timeout: timedelta = timedelta(minutes=10)) -> None:
        """Adds the two ends' gradients, once a step.

        Raises:
            RuntimeError: The other end is gone, or did not come within ``timeout``.
        """
        for owner, twin in self._pairs_here:
            if twin.grad is not None:
                owner.grad = twin.grad if owner.grad is None else owner.grad + twin.grad
                twin.grad = None
        for parameter, _, group in self._pairs_apart:
            assert parameter is not None
            if not parameter.requires_grad:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            work = dist.all_reduce(parameter.grad, group=group, async_op=True)
            assert work is not None
            work.wait(timeout)

    def norms(self) -> list[float]:
        """Norm of each owned parameter's gradient, in its own precision; -1 where there is no gradient."""
        return [_norm(self.local[name].grad) for name in self.owned]


def _norm(gradient: Tensor | None) -> float:
    return -1.0 if gradient is None else float(torch.linalg.vector_norm(gradient.detach()))
