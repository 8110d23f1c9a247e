"""A plan that does not fit the processes or its own schedule is refused before anything is built or waited for."""

from headrace.errors import RequestError
from headrace.plan import Plan
from headrace.schedule import Schedule


def require_fit(plan: Plan, schedule: Schedule, num_processes: int) -> None:
    """Holds the plan's layout against what is there.

    Raises:
        RequestError: Another number of processes, or a schedule with other stages, ranks or placement.
    """
    layout = plan.layout
    if num_processes != layout.num_ranks:
        raise RequestError(
            f"the plan is for {layout.num_ranks} ranks (dp={layout.dp} x pp={layout.pp} x tp={layout.tp}), but "
            f"{num_processes} processes were started; start {layout.num_ranks}, or plan for {num_processes}"
        )
    if schedule.num_stages != layout.num_stages:
        raise RequestError(
            f"schedule '{schedule.name}' has {schedule.num_stages} stages, but the plan cuts the model into "
            f"{layout.num_stages}; give layout.bounds {schedule.num_stages + 1} entries"
        )
    if schedule.placement != layout.placement:
        raise RequestError(
            f"schedule '{schedule.name}' places its stages on ranks {list(schedule.placement)}, but the plan on "
            f"{list(layout.placement)}; take the schedule's"
        )
