"""What the user has fixed of a plan; the planner chooses the rest."""

from dataclasses import dataclass

from headrace.chain.chain import Chain
from headrace.cluster.cluster import Cluster
from headrace.errors import RequestError
from headrace.plan.partition import bounds_from_cuts, check_num_stages
from headrace.schedule.families import find_family


@dataclass(frozen=True)
class Wanted:
    """Fixed choices; None leaves one to the planner.

    Attributes:
        dp, pp, tp: Sizes of the mesh.
        chunks: Stages on each rank.
        schedule: Name of a schedule's family.
        microbatches: Micro-batches of one step.
        cuts: Transformer layers of each stage, as `bounds_from_cuts` takes them.
        recompute: ``none`` or ``full``.
    """

    dp: int | None = None
    pp: int | None = None
    tp: int | None = None
    chunks: int | None = None
    schedule: str | None = None
    microbatches: int | None = None
    cuts: tuple[int, ...] | None = None
    recompute: str | None = None

    @property
    def num_stages(self) -> int | None:
        """Stages, where ``pp`` or ``cuts`` fix them."""
        return len(self.cuts) if self.pp is None and self.cuts is not None else self.pp

    def check(self, chain: Chain, cluster: Cluster, batch_rows: int) -> None:
        """Raises `RequestError` for a choice that no plan can meet."""
        for name, size in (("dp", self.dp), ("tp", self.tp), ("chunks", self.chunks)):
            if size not in (None, 1):
                raise RequestError(
                    f"{name}={size} was asked for, but plans are made for pipelines of one stage a rank, so only "
                    f"{name}=1 works; leave {name} out."
                )
        if self.schedule is not None and (chunks := find_family(self.schedule).chunks) != 1:
            raise RequestError(
                f"Schedule {self.schedule} has {chunks} stages on each rank, but plans are made for 1; "
                "choose a schedule of one stage a rank, such as 1f1b."
            )
        if self.recompute not in (None, "none", "full"):
            raise RequestError(f"There is no recompute={self.recompute}; choose none or full.")
        self._check_stages(chain, cluster)
        self._check_rows(batch_rows)

    def _check_stages(self, chain: Chain, cluster: Cluster) -> None:
        if self.cuts is not None:
            if self.pp not in (None, len(self.cuts)):
                raise RequestError(
                    f"pp={self.pp} but cuts {list(self.cuts)} name {len(self.cuts)} stages; "
                    f"set pp={len(self.cuts)} or leave it out."
                )
            bounds_from_cuts(chain, self.cuts)
        num_devices = len(cluster.devices)
        if num_devices < 1:
            raise RequestError("The cluster has 0 devices; a plan needs at least 1.")
        if self.num_stages is not None:
            check_num_stages(chain, self.num_stages)
            if self.num_stages > num_devices:
                raise RequestError(
                    f"pp={self.num_stages} needs {self.num_stages} devices but the cluster has {num_devices}; "
                    f"at most pp={num_devices}."
                )

    def _check_rows(self, batch_rows: int) -> None:
        if batch_rows < 1:
            raise RequestError(f"The batch has {batch_rows} rows; a step needs at least 1.")
        if self.microbatches is not None and not 1 <= self.microbatches <= batch_rows:
            nearest = 1 if self.microbatches < 1 else batch_rows
            raise RequestError(
                f"{self.microbatches} micro-batches cannot be cut from {batch_rows} rows, each needs 1; "
                f"the nearest that works is microbatches={nearest}."
            )
