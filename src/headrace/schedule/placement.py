"""Which rank holds which stage."""


def straight(num_ranks: int) -> tuple[int, ...]:
    """One stage a rank."""
    return tuple(range(num_ranks))


def looped(num_ranks: int, chunks: int) -> tuple[int, ...]:
    """Round and round: stage ``s`` on rank ``s mod p``."""
    return tuple(range(num_ranks)) * chunks


def waves(num_ranks: int, chunks: int) -> tuple[int, ...]:
    """Down and up in turn, so that neighbouring stages at each turn are on one rank; two chunks are a V."""
    down = tuple(range(num_ranks))
    return tuple(rank for chunk in range(chunks) for rank in (down if chunk % 2 == 0 else down[::-1]))
