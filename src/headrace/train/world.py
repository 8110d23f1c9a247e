"""Whether the processes that somebody starts are those that a job's layout asks for."""

from headrace.errors import RequestError
from headrace.plan import Wanted
from headrace.train.config import Config


def check_world(config: Config, num_processes: int, what: str) -> None:
    """Refuses a number of processes that the layout cannot use.

    Args:
        config: The job.
        num_processes: That were or will be started.
        what: They in words, such as ``3 processes were started``.

    Raises:
        RequestError: Both numbers, and what to do.
    """
    parallel = config.parallel
    dp, tp, stages = parallel.dp or 1, parallel.tp or 1, Wanted(**parallel.model_dump()).num_ranks
    if num_processes % (dp * tp) or (stages is not None and stages * dp * tp != num_processes):
        raise RequestError(
            f"{what}, but parallel asks for dp={dp} x pp={stages or 'any'} x tp={tp}; "
            f"start {dp * tp * (stages or 1)} processes, or change parallel"
        )
