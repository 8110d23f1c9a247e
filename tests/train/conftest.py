from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.train.jobs import GPT2, LLAMA, train, write_job


@dataclass(frozen=True)
class Whole:
    """A run that never stopped, and what the terminal showed."""

    job: Path
    run_dir: Path
    out: str
    err: str


def _whole(folder: Path, model: dict[str, object]) -> Whole:
    job = write_job(folder, model)
    done = train(job, "whole")
    assert done.returncode == 0, done.stderr
    return Whole(job, folder / "whole", done.stdout, done.stderr)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return _whole(tmp_path_factory.mktemp("llama"), LLAMA)


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return _whole(tmp_path_factory.mktemp("gpt2"), GPT2)
