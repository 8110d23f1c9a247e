"""The order of a plan's work: made by a family, searched, or written by hand in a file."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from headrace.errors import RequestError
from headrace.schedule.families import FAMILIES, find_family, make_schedule
from headrace.schedule.files import read_schedule
from headrace.schedule.prices import Prices
from headrace.schedule.schedule import Schedule

FILE_ENDINGS = (".csv", ".json")
OTHER_NAMES = ("auto", "a file that ends in .csv or .json")


def is_file(schedule: str) -> bool:
    """Whether the name of a schedule is that of a file."""
    return Path(schedule).suffix in FILE_ENDINGS


def chunks_of(schedule: str) -> int:
    """Stages that a schedule has on each rank when nobody says.

    Raises:
        RequestError: There is no such family, or no such file.
    """
    if schedule == "auto":
        return 1
    if is_file(schedule):
        read = read_schedule(Path(schedule))
        return read.num_stages // read.num_ranks
    return find_family(schedule, *OTHER_NAMES).chunks


def open_schedule(schedule: str, num_ranks: int, num_microbatches: int, chunks: int) -> Schedule:
    """The schedule of that name for these numbers, at equal prices.

    Raises:
        RequestError: It cannot have these numbers, or is one that the engine does not run.
    """
    if is_file(schedule):
        made = read_schedule(Path(schedule))
        _check_counts(made, schedule, num_ranks, num_microbatches)
    else:
        made = make_schedule(schedule, num_ranks, num_microbatches, chunks)
    if made.forward_only:
        raise RequestError(f"Schedule {schedule} has no backwards; it can be simulated but not trained with.")
    if made.copies:
        raise RequestError(
            f"Schedule {schedule} keeps two copies of the weights; it can be simulated but not trained with: choose "
            "another."
        )
    return made


def is_asynchronous(schedule: str) -> bool:
    """Whether weights change within a step under the schedule of that name.

    Raises:
        RequestError: There is no such family, or no such file.
    """
    if is_file(schedule):
        return read_schedule(Path(schedule)).update_every > 0
    return schedule != "auto" and find_family(schedule, *OTHER_NAMES).asynchronous


def runnable_families(num_ranks: int, num_microbatches: int) -> list[Schedule]:
    """Every family with the bits of one process that takes these numbers, at equal prices."""
    made = []
    for name, family in FAMILIES.items():
        if family.asynchronous:
            continue
        with suppress(RequestError):
            made.append(open_schedule(name, num_ranks, num_microbatches, family.chunks))
    return made


def priced_schedule(made: Schedule, prices: Callable[[], Prices]) -> Schedule | None:
    """The same family with its ops placed by prices; None for a family whose order does not depend on them."""
    family = FAMILIES.get(made.name)
    if family is None or not family.priced:
        return None
    return family.make(made.num_ranks, made.num_microbatches, made.num_stages // made.num_ranks, prices())


def _check_counts(made: Schedule, schedule: str, num_ranks: int, num_microbatches: int) -> None:
    for name, own, asked in (
        ("pp", made.num_ranks, num_ranks),
        ("microbatches", made.num_microbatches, num_microbatches),
    ):
        if own != asked:
            raise RequestError(f"The schedule in {schedule} is for {name}={own}, not {asked}; set {name}={own}.")
