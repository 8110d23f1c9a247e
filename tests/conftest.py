import os
from collections.abc import Iterator

import pytest

from tests.ranks import Ranks

# A judge in this process adds in the order of one thread, as the ranks do: more threads give other last bits.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    pool = Ranks()
    yield pool
    pool.close()
