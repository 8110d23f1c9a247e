"""What a process holds just now: what may pile up over steps."""

import gc
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Counts:
    """Of this process.

    Attributes:
        tensors: Live ones that Python knows, after a collection.
        tensor_bytes: Of their storages, each counted once.
        descriptors: Open files and sockets.
        shared_maps: Mapped pieces of memory shared with peers.
        threads: All of them.
        resident_bytes: Of the process's own memory, in the machine's; without pages of files.
    """

    tensors: int
    tensor_bytes: int
    descriptors: int
    shared_maps: int
    threads: int
    resident_bytes: int

    @classmethod
    def now(cls) -> "Counts":
        """Counts after a collection."""
        import torch

        gc.collect()
        tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
        storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        maps = Path("/proc/self/maps").read_text()
        return cls(
            len(tensors),
            sum(storages.values()),
            len(list(Path("/proc/self/fd").iterdir())),
            maps.count("memfd:headrace"),
            int(status["Threads"]),
            int(status["RssAnon"].split()[0]) * 1024,
        )

    def more_than(self, earlier: "Counts") -> int:
        """By how much the number of things has grown since: of tensors, descriptors or threads, whichever the most.

        How many messages were ever under way at a time is up to the clock; each has a piece of shared memory, which
        keeps one descriptor open, so these are left out here and have a bound of their own.
        """
        return max(
            self.tensors - earlier.tensors,
            self.descriptors - self.shared_maps - earlier.descriptors + earlier.shared_maps,
            self.threads - earlier.threads,
        )
