"""Legality by the definition, slowly, with nothing of the checker in it."""

from headrace.schedule import Op, Schedule


def is_legal(schedule: Schedule) -> bool:
    return (
        has_each_op_once(schedule) and ends_with_blocking_channels(schedule) and updates_are_where_they_belong(schedule)
    )


def has_each_op_once(schedule: Schedule) -> bool:
    wanted = [(s, mb) for s in range(schedule.num_stages) for mb in range(schedule.num_microbatches)]
    found: dict[tuple[int, int], list[str]] = {cell: [] for cell in wanted}
    for rank, order in enumerate(schedule.orders):
        for op in order:
            cell = (op.stage, op.microbatch)
            if cell not in found or schedule.rank_of(*cell) != rank:
                return False
            found[cell].append(op.kind)
    whole = (["F"],) if schedule.forward_only else (["F", "B"], ["F", "I", "W"])
    return all(kinds in whole for kinds in found.values())


def ends_with_blocking_channels(schedule: Schedule) -> bool:
    """Runs all ranks; a channel is a queue, and a receive that finds another micro-batch at its head is illegal."""
    channels: dict[tuple[int, int, int, int], list[int]] = {}
    done: set[Op] = set()
    position = [0] * schedule.num_ranks
    moved = True
    while moved:
        moved = False
        for rank, order in enumerate(schedule.orders):
            while position[rank] < len(order):
                op = order[position[rank]]
                source = {"F": op.stage - 1, "B": op.stage + 1, "I": op.stage + 1}.get(op.kind, -1)
                if 0 <= source < schedule.num_stages:
                    sender = schedule.rank_of(source, op.microbatch)
                    if sender == rank:
                        kinds = "F" if op.kind == "F" else "BI"
                        if not any(Op(kind, source, op.microbatch) in done for kind in kinds):
                            break
                    else:
                        queue = channels.setdefault((source, op.stage, sender, rank), [])
                        if not queue:
                            break
                        if queue.pop(0) != op.microbatch:
                            return False
                target = {"F": op.stage + 1, "B": op.stage - 1, "I": op.stage - 1}.get(op.kind, -1)
                if 0 <= target < schedule.num_stages:
                    receiver = schedule.rank_of(target, op.microbatch)
                    if receiver != rank:
                        channels.setdefault((op.stage, target, rank, receiver), []).append(op.microbatch)
                done.add(op)
                position[rank] += 1
                moved = True
    return all(position[rank] == len(order) for rank, order in enumerate(schedule.orders))


def updates_are_where_they_belong(schedule: Schedule) -> bool:
    """Before a gradient all micro-batches of earlier updates are complete; before a delayed forward those of all
    updates but the last one before its own."""
    every = schedule.update_every
    if not every:
        return True
    for rank, order in enumerate(schedule.orders):
        for stage in schedule.stages_of(rank):
            mine = [op for op in order if op.stage == stage]
            for place, op in enumerate(mine):
                group = op.microbatch // every
                needed = group if op.kind != "F" else group - 1 if schedule.delayed_update else 0
                complete = {o.microbatch for o in mine[:place] if o.kind in "BW"}
                if any(mb // every < needed and mb not in complete for mb in range(schedule.num_microbatches)):
                    return False
    return True
