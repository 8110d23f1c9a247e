"""A stage whose weights change while micro-batches are under way: each op sees the version that the schedule says.

Every version that some micro-batch still needs has tensors of its own, which no update touches (weight stashing:
Narayanan et al. 2019, PipeDream, arXiv 1806.03377, section 3.3; two of them: PipeDream-2BW, arXiv 2006.09503, section
3.1). Before an op the modules are given the parameters of its version, so that the graph of a forward, its backward,
its recomputation and what it defers for W all refer to the same tensors.
"""

from typing import Any

import torch
from torch import Tensor, nn

from headrace.chain.microbatch import MicroBatch
from headrace.chain.part import Part
from headrace.engine.stage import Stage
from headrace.schedule import WeightVersions


class VersionedStage(Stage):
    """A stage that holds its weights in several versions.

    The parameters that the model was built with stay those that the optimizer steps and a checkpoint saves: they share
    the memory of the newest version, and outside of a step they are what the modules hold.
    """

    def __init__(self, part: Part, *settings: Any) -> None:
        """Takes what `Stage` takes; makes no copy yet."""
        super().__init__(part, *settings)
        self._newest = [parameter for _, parameter in part.named_parameters() if parameter.requires_grad]
        self._places = _places(part.model, self._newest)
        self._shown = self._newest
        self._copies = [[nn.Parameter(parameter.data) for parameter in self._newest]]
        self._versions = WeightVersions((), 1, 0)
        self._num_updates = 0

    def open_step(self, versions: WeightVersions) -> None:
        """Begins a step; what is newest is its version 0."""
        slot = self._versions.slots[self._num_updates]
        self._copies[0], self._copies[slot] = self._copies[slot], self._copies[0]
        for newest, copy in zip(self._newest, self._copies[0], strict=True):
            copy.data = newest.data
        self._versions, self._num_updates = versions, 0
        while len(self._copies) < versions.held:
            self._copies.append(_copy(self._newest))

    def forward(self, microbatch: int, hidden: Tensor | None, batch: MicroBatch) -> Tensor | None:
        """Op F, with the version that the schedule gives the micro-batch."""
        self._show(microbatch)
        return super().forward(microbatch, hidden, batch)

    def input_backward(self, microbatch: int, gradient: Tensor | None) -> Tensor | None:
        """Op I (and B's first half), with the version of the forward."""
        self._show(microbatch)
        return super().input_backward(microbatch, gradient)

    def weight_backward(self, microbatch: int) -> None:
        """Op W, with the version of the forward."""
        self._show(microbatch)
        super().weight_backward(microbatch)

    @torch.no_grad()
    def advance(self) -> None:
        """Makes the next version, equal to the newest, and moves the gradients that have come to it.

        After it the optimizer may change the newest parameters: what micro-batches under way need is elsewhere.
        """
        self._hold(self._newest)
        source, target = self._versions.slots[self._num_updates : self._num_updates + 2]
        self._num_updates += 1
        if source == target:
            return
        for newest, copy in zip(self._newest, self._copies[target], strict=True):
            copy.data.copy_(newest.data)
            newest.data = copy.data

    def _show(self, microbatch: int) -> None:
        self._hold(self._copies[self._versions.slots[self._versions.seen[microbatch]]])

    def _hold(self, parameters: list[nn.Parameter]) -> None:
        """Puts ``parameters`` into the modules; the gradients gathered so far move along, so that there is one sum."""
        if parameters is self._shown:
            return
        for before, after in zip(self._shown, parameters, strict=True):
            after.grad, before.grad = before.grad, None
        for held, leaf, index in self._places:
            held[leaf] = parameters[index]
        self._shown = parameters


def _places(model: nn.Module, parameters: list[nn.Parameter]) -> list[tuple[dict[str, nn.Parameter | None], str, int]]:
    """Where modules hold each of ``parameters``: the dictionary, the name in it, and the index of the parameter."""
    index = {id(parameter): number for number, parameter in enumerate(parameters)}
    held = ((m._parameters, leaf, p) for m in model.modules() for leaf, p in m._parameters.items())
    return [(table, leaf, index[id(p)]) for table, leaf, p in held if id(p) in index]


def _copy(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    """Parameters with memory of their own; those that share theirs (a tied embedding) share it again."""
    memory: dict[tuple[int, torch.Size], Tensor] = {}
    return [nn.Parameter(memory.setdefault((p.data_ptr(), p.shape), torch.empty_like(p.data))) for p in parameters]
