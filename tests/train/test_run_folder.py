"""Where a run goes when nobody says."""

from pathlib import Path

import pytest

from headrace.train.config import load_config
from headrace.train.run import choose_run_dir
from tests.train.jobs import write_job


def test_a_run_gets_the_configs_name_with_a_number_where_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = write_job(tmp_path)
    config = load_config(job)
    for name in ("job", "job-2", "job-3"):
        assert choose_run_dir(config, job, None, resume=False) == Path("runs", name)
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, "config.yaml").touch()
        assert choose_run_dir(config, job, None, resume=True) == Path("runs", name)
    named = load_config(job, ["run=here"])
    assert choose_run_dir(named, job, None, resume=False) == Path("here")
    assert choose_run_dir(named, job, Path("there"), resume=False) == Path("there")
