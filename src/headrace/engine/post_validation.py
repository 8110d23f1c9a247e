"""The optimizer's step without a wait for all ranks: made at once, and taken back where it turns out wrong.

Whether gradients are clipped, or a step is skipped, only the norm over all ranks says, and the last rank's gradients
come late. So each rank steps as if neither were needed and goes on into its next program. The norm comes while that
runs its first forwards, and is read before its first backward, which no rank reaches before all ranks have begun. Where
it refutes the step, the rest of that program is only messages; then the step is taken back to the last bit, made again
by the rule, and the program runs for good (Qi et al., Zero Bubble Pipeline Parallelism, arXiv 2401.10241, section 4).
"""

import torch
from torch import Tensor

from headrace.engine.agree import Exchange
from headrace.engine.update import Update


class PostValidation:
    """Makes early steps, one at a time, and settles them.

    It keeps a copy of the parameters and of the optimizer's state for good, and a step's gradients until its norm is
    read, so never two steps' gradients.

    Attributes:
        is_hopeful: Whether the last step needed neither clipping nor skipping, so that an early one will likely hold.
            The same on every rank. Where steps are clipped in a row, only the first of them is made twice.
    """

    def __init__(self, update: Update) -> None:
        """Takes the update whose steps will be made early."""
        self._update, self._optimizer = update, update.optimizer
        self._copies: list[Tensor] = []
        self._gradients: list[Tensor | None] = []
        self._without_state: list[Tensor] = []
        self._rates: list[float] = []
        self._exchange: Exchange | None = None
        self._learning_rate: float | None = None
        self.is_hopeful = True

    def step(self, exchange: Exchange, learning_rate: float | None) -> None:
        """Steps before the norm in ``exchange`` has come; lets the gradients go from the parameters."""
        self._exchange, self._learning_rate = exchange, learning_rate
        self._keep()
        self._update.step_as_they_are(learning_rate)
        self._optimizer.zero_grad(set_to_none=True)

    def refuted(self) -> bool:
        """Whether the early step was wrong; waits for its norm."""
        assert self._exchange is not None
        if not self._update.leaves_as_they_are(self._exchange.norm):
            return True
        self._gradients.clear()
        return False

    def settle(self, norm: Tensor) -> None:
        """Learns a step's norm; an early step that it refutes is taken back and made by the rule."""
        self.is_hopeful = self._update.leaves_as_they_are(norm)
        if self._exchange is None:
            return
        if not self.is_hopeful:
            self._take_back()
            self._update.step(norm, self._learning_rate)
        self._exchange = None
        self._gradients.clear()

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    def _changing(self) -> list[Tensor]:
        """Everything that a step changes."""
        state = self._optimizer.state
        parameters = self._parameters()
        return [p.detach() for p in parameters] + [t for p in parameters if p in state for t in state[p].values()]

    def _keep(self) -> None:
        changing, parameters = self._changing(), self._parameters()
        if [t.shape for t in changing] == [t.shape for t in self._copies]:
            for copy, tensor in zip(self._copies, changing, strict=True):
                copy.copy_(tensor)
        else:  # The first step, and the second, whose optimizer has a state.
            self._copies = [tensor.clone() for tensor in changing]
        self._gradients = [parameter.grad for parameter in parameters]
        self._without_state = [p for p in parameters if not self._optimizer.state.get(p)]
        self._rates = [group["lr"] for group in self._optimizer.param_groups]

    @torch.no_grad()
    def _take_back(self) -> None:
        for parameter in self._without_state:
            self._optimizer.state[parameter].clear()
        for copy, tensor in zip(self._copies, self._changing(), strict=True):
            tensor.copy_(copy)
        for parameter, gradient in zip(self._parameters(), self._gradients, strict=True):
            parameter.grad = gradient
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
