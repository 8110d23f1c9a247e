from pathlib import Path

import pytest

from tests.train.jobs import GPT2, LLAMA, Whole, train, write_job


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
