"""Text, token by token: each new token is one forward-only run of all rows so far through all stages."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PretrainedConfig

from headrace.chain.microbatch import MicroBatch
from headrace.chain.part import draw_seed
from headrace.errors import RequestError

NextLogits = Callable[[list[MicroBatch]], list[Tensor] | None]
"""Runs micro-batches; answers each one's logits of the next token, or None where the head is elsewhere."""


def check_request(config: PretrainedConfig, prompt_ids: Tensor, num_tokens: int, temperature: float) -> None:
    """Refuses what the model cannot go on from.

    Raises:
        RequestError: Names what does not fit, and both numbers.
    """
    if prompt_ids.ndim != 2 or not prompt_ids.numel():
        raise RequestError(
            f"the prompt has shape {list(prompt_ids.shape)}; give at least one row of at least one token"
        )
    if num_tokens < 1:
        raise RequestError(f"{num_tokens} new tokens were asked for; ask for 1 or more")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise RequestError(f"the temperature is {temperature}; give a number that is 0 (the likeliest token) or more")
    settings = config.get_text_config(decoder=True)
    low, high = int(prompt_ids.min()), int(prompt_ids.max())
    if low < 0 or high >= settings.vocab_size:
        wrong = low if low < 0 else high
        raise RequestError(
            f"the prompt holds token {wrong}, but the model knows {settings.vocab_size} tokens, from 0 on"
        )
    limit, length = getattr(settings, "max_position_embeddings", None), prompt_ids.shape[1]
    if limit is not None and length + num_tokens > limit:
        room = f"ask for {limit - length} or fewer" if length < limit else "give a shorter prompt"
        raise RequestError(
            f"the prompt has {length} tokens and {num_tokens} more were asked for, but the model knows {limit} "
            f"positions; {room}"
        )


def generate(
    next_logits: NextLogits,
    tell_all: Callable[[Tensor], Tensor],
    prompt_ids: Tensor,
    num_tokens: int,
    num_microbatches: int,
    temperature: float,
    seed: int,
    end_token: int | None,
) -> Tensor:
    """Goes on from prompts of one length.

    The whole of each row runs again for each token, with nothing remembered from the last, so that every model that
    can be cut can be sampled.

    Args:
        next_logits: One pass through all stages.
        tell_all: Gives what the head's rank has chosen to every rank.
        prompt_ids: ``[rows, length]``, the same on every rank.
        num_tokens: The most new tokens of a row.
        num_microbatches: Pieces into which the rows are cut.
        temperature: Divides the logits before a draw; 0 takes the likeliest token.
        seed: Of the draws, each of which is keyed by seed, row and place: the same whatever rank draws it.
        end_token: Ends a row, which is filled up with it; None ends no row early.

    Returns:
        ``[rows, length + new]``, the prompts with what was found; ``new`` is less than ``num_tokens`` where all rows
        have ended before.
    """
    ids, rows = prompt_ids, prompt_ids.shape[0]
    ended = torch.zeros(rows, dtype=torch.bool)
    for number in range(num_tokens):
        pieces = ids.tensor_split(min(num_microbatches, rows))
        answers = next_logits([MicroBatch(piece, piece, 0, wants_logits=True) for piece in pieces])
        mine = torch.zeros(rows, dtype=torch.int64)
        if answers is not None:
            mine = _choose(torch.cat(answers).cpu(), temperature, seed, number)
        chosen = tell_all(mine)
        if end_token is not None:
            chosen = torch.where(ended, end_token, chosen)
            ended |= chosen == end_token
        ids = torch.cat([ids, chosen[:, None].to(ids.device)], dim=1)
        if ended.all():
            break
    return ids


def _choose(logits: Tensor, temperature: float, seed: int, number: int) -> Tensor:
    """Tokens ``[rows]`` from logits ``[rows, vocabulary]``; each row's draw has a generator of its own."""
    if temperature == 0:
        return logits.float().argmax(-1)
    shares = (logits.double() / temperature).softmax(-1)
    generator = torch.Generator()
    draws = []
    for row, share in enumerate(shares):
        generator.manual_seed(draw_seed(seed, number, row, 0))
        draws.append(torch.multinomial(share, 1, generator=generator))
    return torch.cat(draws)
