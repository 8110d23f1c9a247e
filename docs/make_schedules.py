"""Makes the page of schedules and their pictures: ``python -m docs.make_schedules``."""

import inspect
from dataclasses import dataclass

from docs.made import DOCS, note, save, table
from headrace.costs.costs import LinkCosts, StageCosts
from headrace.schedule import FAMILIES, check, families, make_schedule
from headrace.simulate import Simulation, simulate
from headrace.view.schedule_picture import draw_schedule

RANKS, MICROBATCHES, OP_S = 4, 8, 0.010
PICTURES = "images/schedules"
README = ("gpipe", "1f1b", "interleaved-1f1b", "zb-h1", "zb-h2", "zb-v", "v-half", "v-min")
TEXT = f"""# Schedules

A schedule is data: for each rank an ordered tuple of `Op(kind, stage, microbatch)`. Nothing else decides order. One
checker proves that it can run, one simulator prices it, one picture draws it and one engine runs it. An op is `F`
(forward), `B` (full backward), `I` (gradient of the input) or `W` (gradient of the weights); `B` is `I` then `W`.

The figures below are the simulator's, for {RANKS} ranks and {MICROBATCHES} micro-batches, with `F`, `I` and `W` of a
rank's whole share of the model equally long and messages free.

- **Stages**: how many each rank holds.
- **Idle**: the share of all ranks' time in which they do not compute, from the first op to the end of the last.
- **Bubble rate**: the same with each rank counted from its own first op to its own last one, as the Zero Bubble paper
  does: what remains where steps follow each other.
- **Activations**: the most that a rank holds, in micro-batches' worth of one rank's layers.
- **Weights**: how often each rank holds its share of the model.
- **Trains**: whether `parallel.schedule` takes it. Those with two copies of the weights can be simulated, and are not
  trained with today; those with several versions train in [a way of their own](asynchronous.md). Where you name none,
  the planner chooses between `gpipe` and `1f1b`; with `auto` it [searches](auto.md) for an order under the measured
  costs.

"""


@dataclass(frozen=True)
class Shown:
    """A family, priced.

    Attributes:
        name: Of the family.
        about: The first line of its file.
        promise: The first paragraph of its function.
        simulation: Of one step.
        activations: Most that a rank holds, in units of one micro-batch through a rank's share of the model.
        weights: Copies or versions of its share that a rank holds.
    """

    name: str
    about: str
    promise: str
    simulation: Simulation
    activations: float
    weights: int


def pages() -> dict[str, str]:
    """The page; ``draw`` makes its pictures."""
    shown = [show(name) for name in FAMILIES]
    head = ("schedule", "stages", "idle", "bubble rate", "activations", "weights", "trains")
    text = note("docs.make_schedules") + TEXT + table(head, map(row, shown))
    return {"schedules.md": text + "".join(map(_section, shown))}


def show(name: str) -> Shown:
    """Prices a family at equal costs."""
    schedule = make_schedule(name, RANKS, MICROBATCHES)
    checked = check(schedule)
    num_copies = len(schedule.placements)
    share = RANKS / schedule.num_stages
    made = getattr(families, FAMILIES[name].make.__code__.co_names[0])
    return Shown(
        name,
        _first_paragraph(inspect.getmodule(made)),
        _first_paragraph(made),
        simulate(checked, _even(schedule.num_stages, OP_S * share), LinkCosts(0.0, float("inf"))),
        max(checked.peak_in_flight) * share,
        max(num_copies, *(versions.held for versions in checked.weight_versions)),
    )


def row(shown: Shown) -> tuple[str, ...]:
    """A family's row of the table."""
    schedule = shown.simulation.schedule
    return (
        f"[`{shown.name}`](#{shown.name})",
        f"{len(schedule.stages_of(0))}",
        *_figures(shown),
        f"{shown.weights}",
        "no" if schedule.copies else "yes, [asynchronously](asynchronous.md)" if schedule.update_every else "yes",
    )


def readme_table() -> str:
    """The best known ones, each with its picture, as the front page shows them."""
    picture = '<img src="docs/images/schedules/{}.svg" alt="Timeline of {}" width="420">'
    shown = [show(name) for name in README]
    rows = ((f"`{each.name}`", *_figures(each), picture.format(each.name, each.name)) for each in shown)
    return table(("schedule", "idle", "bubble rate", "activations", ""), rows)


def _figures(shown: Shown) -> tuple[str, str, str]:
    simulation = shown.simulation
    return f"{simulation.idle_share:.1%}", f"{abs(simulation.bubble_rate):.1%}", f"{shown.activations:g}"


def draw() -> None:
    """Draws every family."""
    (DOCS / PICTURES).mkdir(parents=True, exist_ok=True)
    for name in FAMILIES:
        print(draw_schedule(show(name).simulation, DOCS / PICTURES / f"{name}.svg"))


def _section(shown: Shown) -> str:
    picture = f"![Timeline of {shown.name}]({PICTURES}/{shown.name}.svg)"
    return f"\n## {shown.name}\n\n{shown.about}\n\n{shown.promise}\n\n{picture}\n"


def _first_paragraph(documented: object) -> str:
    return " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split()).replace("``", "`")


def _even(num_stages: int, op_s: float) -> StageCosts:
    times, sizes = (op_s,) * num_stages, (1,) * num_stages
    return StageCosts(times, times, times, sizes, sizes, sizes, sizes)


if __name__ == "__main__":
    draw()
    save(pages())
