"""How the rows of a batch become micro-batches."""


def microbatch_rows(batch_rows: int, num_microbatches: int) -> tuple[int, ...]:
    """Rows of each micro-batch; where they do not divide, the first ones hold one more. Each row is used once."""
    rows, longer = divmod(batch_rows, num_microbatches)
    return (rows + 1,) * longer + (rows,) * (num_microbatches - longer)


def microbatch_choices(batch_rows: int, num_stages: int) -> tuple[int, ...]:
    """Numbers of micro-batches worth a price, ascending, from ``num_stages`` (or all rows) to ``batch_rows``.

    These are all numbers that divide the batch, and of the others those with 1, 2, 3, 4, 6, 8, 12 … rows, so that
    neighbours are at most a half apart and the choices stay few for a large batch.
    """
    fewest = min(num_stages, batch_rows)
    dividing = {number for number in range(fewest, batch_rows + 1) if batch_rows % number == 0}
    sizes = [size << shift for shift in range(batch_rows.bit_length()) for size in (2, 3)]
    coarse = {-(-batch_rows // size) for size in sizes}
    return tuple(sorted({fewest, *dividing, *(number for number in coarse if number >= fewest)}))
