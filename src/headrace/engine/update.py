"""The optimizer's step, under the rules of the whole model: one norm, one decision to clip or to skip."""

from dataclasses import dataclass

import torch
from torch import Tensor

from headrace.engine.parameters import Parameters


@dataclass(frozen=True)
class AdamWSettings:
    """Of ``torch.optim.AdamW``, and the norm that gradients are clipped to (None: not at all)."""

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float | None = None


class Update:
    """Steps the local parameters.

    Attributes:
        optimizer: torch's.
    """

    def __init__(self, parameters: Parameters, settings: AdamWSettings) -> None:
        """Takes what the optimizer steps."""
        self._parameters, self._clip_norm = parameters, settings.clip_norm
        self.optimizer = torch.optim.AdamW(
            [{"params": [p for p in parameters.local.values() if p.requires_grad]}],  # A frozen stage has none.
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )

    def norms(self) -> list[float]:
        """Of the gradients of this rank's owned parameters, as the ranks tell each other; -1 where there is none."""
        return self._parameters.norms()

    def set_learning_rate(self, learning_rate: float | None) -> None:
        """From now on; None keeps the last."""
        if learning_rate is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate

    def step(self, norm: Tensor, learning_rate: float | None) -> bool:
        """Clips and steps, then lets the gradients go.

        Args:
            norm: Global norm of the gradients; where it is not finite no weight changes.
            learning_rate: For this step; None keeps the last.

        Returns:
            Whether the weights were changed.
        """
        finite = bool(torch.isfinite(norm))
        if finite:
            if self._clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(self._parameters.local.values(), self._clip_norm, norm)
            self.step_as_they_are(learning_rate)
        self.optimizer.zero_grad(set_to_none=True)
        return finite

    def step_as_they_are(self, learning_rate: float | None) -> None:
        """Steps with the gradients as they are, and keeps them."""
        self.set_learning_rate(learning_rate)
        self.optimizer.step()

    def leaves_as_they_are(self, norm: Tensor) -> bool:
        """Whether gradients of this norm are neither clipped nor skipped: where clipping would multiply by 1."""
        if not torch.isfinite(norm):
            return False
        return self._clip_norm is None or bool(self._clip_norm / (norm + 1e-6) >= 1.0)
