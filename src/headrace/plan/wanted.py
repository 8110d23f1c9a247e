"""What the user has fixed of a plan; the planner chooses the rest."""

from dataclasses import dataclass

from headrace.chain.chain import RECOMPUTE_MODES, Chain, RecomputeMode
from headrace.cluster.cluster import Cluster
from headrace.errors import RequestError
from headrace.plan.orders import chunks_of, is_asynchronous
from headrace.plan.partition import bounds_from_cuts, check_num_stages


@dataclass(frozen=True)
class Wanted:
    """Fixed choices; None leaves one to the planner.

    Attributes:
        dp, pp, tp: Sizes of the mesh.
        chunks: Stages on each rank.
        schedule: Name of a schedule's family, or of a schedule file.
        microbatches: Micro-batches of one step.
        cuts: Transformer layers of each stage, as `bounds_from_cuts` takes them.
        recompute: Of all transformer layers: one of `RECOMPUTE_MODES`.
        post_validation: Whether ranks begin the next step before the norm of this one is known.
        loss_chunks: Chunks of tokens in which a micro-batch's loss is computed.
        offload: Whether activations wait in the host's memory.
    """

    dp: int | None = None
    pp: int | None = None
    tp: int | None = None
    chunks: int | None = None
    schedule: str | None = None
    microbatches: int | None = None
    cuts: tuple[int, ...] | None = None
    recompute: RecomputeMode | None = None
    post_validation: bool = False
    loss_chunks: int | None = None
    offload: bool = False

    @property
    def num_ranks(self) -> int | None:
        """Ranks of a pipeline, where ``pp`` or ``cuts`` fix them."""
        return len(self.cuts) // self.stages_per_rank if self.pp is None and self.cuts is not None else self.pp

    @property
    def stages_per_rank(self) -> int:
        """Chunks: as asked for, or as the schedule's family has them, or 1."""
        return self.chunks or (chunks_of(self.schedule) if self.schedule else 1)

    def check(self, chain: Chain, cluster: Cluster, batch_rows: int) -> None:
        """Raises `RequestError` for a choice that no plan can meet."""
        for name, size in (("dp", self.dp), ("tp", self.tp)):
            if size not in (None, 1):
                raise RequestError(
                    f"{name}={size} was asked for, but plans are made for one pipeline, so only {name}=1 works; "
                    f"leave {name} out."
                )
        if self.schedule is None and self.chunks not in (None, 1):
            raise RequestError(
                f"chunks={self.chunks} needs a schedule of several stages a rank; name one, such as interleaved-1f1b."
            )
        if self.recompute not in (None, *RECOMPUTE_MODES):
            raise RequestError(f"There is no recompute={self.recompute}; choose {', '.join(RECOMPUTE_MODES)}.")
        if self.loss_chunks is not None and self.loss_chunks < 1:
            raise RequestError(f"A loss in {self.loss_chunks} chunks was asked for; loss_chunks is at least 1.")
        self._check_stages(chain, cluster)
        self._check_asynchronous(chain)
        self._check_rows(batch_rows)

    def _check_stages(self, chain: Chain, cluster: Cluster) -> None:
        chunks = self.stages_per_rank
        if self.cuts is not None:
            if len(self.cuts) % chunks or self.pp not in (None, len(self.cuts) // chunks):
                raise RequestError(
                    f"cuts {list(self.cuts)} name {len(self.cuts)} stages, but pp={self.pp or 'any'} with {chunks} on "
                    f"each rank has {self.pp * chunks if self.pp else f'a multiple of {chunks}'}; make them agree."
                )
            bounds_from_cuts(chain, self.cuts)
        num_devices = len(cluster.devices)
        if num_devices < 1:
            raise RequestError("The cluster has 0 devices; a plan needs at least 1.")
        if self.num_ranks is not None:
            check_num_stages(chain, self.num_ranks, chunks)
            if self.num_ranks > num_devices:
                raise RequestError(
                    f"pp={self.num_ranks} needs {self.num_ranks} devices but the cluster has {num_devices}; "
                    f"at most pp={num_devices}."
                )

    def _check_asynchronous(self, chain: Chain) -> None:
        if not self.schedule or not is_asynchronous(self.schedule):
            return
        if self.post_validation:
            raise RequestError(
                f"parallel.post_validation takes back the one update of a step, but schedule {self.schedule} makes "
                "several under way, and waits for no norm; set parallel.post_validation=false."
            )
        if chain.tied and self.num_ranks != 1:
            raise RequestError(
                f"Schedule {self.schedule} updates each stage at a time of its own, but the first and the last hold "
                "one tied embedding; set tie_word_embeddings: false in model.config, take parallel.pp=1, or choose a "
                "synchronous schedule such as 1f1b."
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
