"""The learning rate: a linear warm-up, then half a cosine."""

import math

from headrace.train.config import TrainConfig


def learning_rate(train: TrainConfig, step: int) -> float:
    """Of ``step``, counted from 0: the peak is reached after ``warmup_steps``, the floor at the last step."""
    if step < train.warmup_steps:
        return train.learning_rate * (step + 1) / train.warmup_steps
    left = max(train.steps - 1 - train.warmup_steps, 1)
    done = min((step - train.warmup_steps) / left, 1.0)
    floor = train.min_learning_rate_ratio
    return train.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))
