"""What a process holds just now: what may pile up over steps."""

import gc
from dataclasses import dataclass, replace
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

    def fixed(self) -> "Counts":
        """What must not change at all over steps.

        Resident memory depends on the allocator, and how many messages were ever under way at a time on the clock:
        each has a piece of shared memory, which keeps one descriptor open.
        """
        return replace(self, resident_bytes=0, shared_maps=0, descriptors=self.descriptors - self.shared_maps)
