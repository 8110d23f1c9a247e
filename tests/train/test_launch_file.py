"""Launch files: what is committed is what the verb makes, clients and schemas take it, torchrun starts as it must."""

import ast
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kubeflow_trainer_api.models import IoK8sApiBatchV1JobSpec, IoK8sApiCoreV1PodSpec, JobsetV1alpha2JobSet

from headrace import cli
from headrace.errors import RequestError
from headrace.train.launch_file import TARGETS, launch_file, write_launch_file

ROOT = Path(__file__).parents[2]
CONFIG = Path("examples/quickstart.yaml")
COMMITTED = {name: Path(f"examples/launch/{name}{target.suffix}") for name, target in TARGETS.items()}
OVERRIDES = ["parallel.pp=8", "model.config.num_hidden_layers=8"]
WORDS = {"shared": "/shared/runs/quickstart", "slurm": "runs/quickstart"}
SKYPILOT_KEYS = {"name", "num_nodes", "resources", "volumes", "workdir", "setup", "run"}
"""Of https://docs.skypilot.co/en/latest/reference/yaml-spec.html; with what it needs the package is too large."""


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("on", TARGETS)
def test_committed_examples_are_what_the_verb_makes(on: str) -> None:
    text = launch_file(CONFIG, OVERRIDES, on, nodes=2, gpus_per_node=4, out=COMMITTED[on])
    assert COMMITTED[on].read_text() == text, (
        f"run: headrace launch {CONFIG} {' '.join(OVERRIDES)} --on {on} --nodes 2 --out {COMMITTED[on]}"
    )


@pytest.mark.parametrize("on", TARGETS)
def test_gpus_follow_from_the_layout(on: str) -> None:
    by_layout = launch_file(CONFIG, OVERRIDES, on, nodes=2)
    assert by_layout == launch_file(CONFIG, OVERRIDES, on, nodes=2, gpus_per_node=4)


def test_the_verb_prints_or_writes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "quickstart.sbatch"
    for words in (["--out", str(out)], []):
        monkeypatch.setattr(sys, "argv", ["headrace", "launch", str(CONFIG), "--on", "slurm", "--nodes", "2", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
    written, printed = out.read_text(), capsys.readouterr().out.removeprefix(f"{out}\n")
    assert written.replace(str(out), out.name) == printed


@pytest.mark.parametrize(
    ("overrides", "on", "nodes", "gpus", "parts"),
    [
        ([], "slurn", 2, None, ["'slurn'", "the nearest is slurm"]),
        ([], "k8s", 2, None, ["'k8s'", "kubernetes"]),
        ([], "slurm", 2, 4, ["2 machines of 4 GPUs are 8 processes", "pp=2", "start 2 processes"]),
        (["parallel.dp=2"], "ray", 2, 4, ["are 8 processes", "dp=2 x pp=2 x tp=1", "start 4 processes"]),
        ([], "slurm", 3, None, ["2 processes", "3 machines"]),
        (["parallel=auto"], "slurm", 2, None, ["parallel.pp", "give --gpus-per-node"]),
        (["train.stepz=3"], "slurm", 2, None, ["unknown key train.stepz"]),
    ],
)
def test_what_cannot_be_launched_is_refused(
    overrides: list[str], on: str, nodes: int, gpus: int | None, parts: list[str]
) -> None:
    with pytest.raises(RequestError) as refused:
        launch_file(CONFIG, overrides, on, nodes, gpus)
    for part in parts:
        assert part in str(refused.value)


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="No such file or directory; choose another --out"):
        write_launch_file(tmp_path / "none/x.sbatch", CONFIG, [], "slurm", nodes=2)


def test_slurm_script_passes_shellcheck_and_starts_torchrun_with_the_first_host(tmp_path: Path) -> None:
    script = COMMITTED["slurm"]
    _check_shell(script.read_text())
    assert "#SBATCH --nodes=2\n" in script.read_text()
    _fake(tmp_path, "scontrol", 'test "$*" = "show hostnames node[7-8]" && printf "node7\\nnode8\\n"')
    _fake(tmp_path, "srun", 'exec "$@"')
    started = _started(["bash", str(script)], tmp_path, SLURM_JOB_NODELIST="node[7-8]", SLURM_JOB_ID="42")
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "node7:29500", "--rdzv-id", "42"]
    assert started == [*_machines(), *meeting, "-m", *_train("slurm")]


def test_overrides_with_blanks_arrive_whole_in_every_file(tmp_path: Path) -> None:
    override = """model.config={model_type: llama, note: 'a "b" $c'}"""
    _fake(tmp_path, "scontrol", "echo node7")
    _fake(tmp_path, "srun", 'exec "$@"')
    script = launch_file(CONFIG, [override], "slurm", nodes=2)
    assert override in _started(["bash", "-c", script], tmp_path, SLURM_JOB_NODELIST="", SLURM_JOB_ID="")
    assert override in _ray_words(launch_file(CONFIG, [override], "ray", nodes=2))
    run = yaml.safe_load(launch_file(CONFIG, [override], "skypilot", nodes=2))["run"]
    assert override in _started(["bash", "-c", run], tmp_path, SKYPILOT_NODE_IPS="", SKYPILOT_NODE_RANK="0")


def test_kubernetes_manifest_is_a_jobset_to_the_last_key(tmp_path: Path) -> None:
    manifest = yaml.safe_load(COMMITTED["kubernetes"].read_text())
    # A model of the client drops what it does not know.
    assert JobsetV1alpha2JobSet.from_dict(manifest).to_dict() == manifest
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert IoK8sApiBatchV1JobSpec.from_dict(job).to_dict() == job
    pod = job["template"]["spec"]
    assert IoK8sApiCoreV1PodSpec.from_dict(pod).to_dict() == pod
    assert (job["completions"], job["parallelism"], job["completionMode"]) == (2, 2, "Indexed")
    command = pod["containers"][0]["command"]
    _check_shell(command[-1])
    started = _started(command, tmp_path, JOB_COMPLETION_INDEX="1")
    meeting = ["--node-rank", "1", "--master-addr", "quickstart-node-0-0.quickstart", "--master-port", "29500"]
    assert started == [*_machines(), *meeting, "-m", *_train()]


def test_skypilot_file_has_the_documented_keys_and_starts_torchrun_with_the_first_host(tmp_path: Path) -> None:
    task = yaml.safe_load(COMMITTED["skypilot"].read_text())
    assert task.keys() == SKYPILOT_KEYS
    assert (task["num_nodes"], task["resources"]) == (2, {"accelerators": "H100:4"})
    _check_shell(task["run"])
    hosts = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NODE_RANK": "1"}
    meeting = ["--node-rank", "1", "--master-addr", "10.0.0.1", "--master-port", "29500"]
    assert _started(["bash", "-c", task["run"]], tmp_path, **hosts) == [*_machines(), *meeting, "-m", *_train()]


def test_ray_script_compiles_and_names_only_what_ray_has() -> None:
    """Ray alone has 79 MB packed; the names are those of https://docs.ray.io/en/latest/train/api/api.html."""
    text = COMMITTED["ray"].read_text()
    compile(text, "ray.py", "exec")
    known = {
        "TorchTrainer": {"torch_config", "scaling_config"},
        "TorchConfig": {"backend"},
        "ScalingConfig": {"num_workers", "use_gpu", "resources_per_worker", "placement_strategy"},
    }
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    found = {ast.unparse(call.func): {word.arg for word in call.keywords} for call in calls}
    assert {name: found[name] for name in known} == known
    assert _ray_words(text) == _train()


def _machines() -> list[str]:
    return ["--nnodes", "2", "--nproc-per-node", "4"]


def _train(on: str = "shared") -> list[str]:
    return ["headrace", "train", str(CONFIG), *OVERRIDES, "--run-dir", WORDS[on]]


def _ray_words(text: str) -> list[str]:
    assigned = next(node for node in ast.parse(text).body if isinstance(node, ast.Assign))
    words = ast.literal_eval(assigned.value)
    assert isinstance(words, list)
    return words


def _check_shell(text: str) -> None:
    for command in (["bash", "-n"], ["shellcheck", "--shell=bash", "-"]):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        said = subprocess.run(command, input=text, capture_output=True, text=True, env={**os.environ, "PATH": path})
        assert (said.returncode, said.stdout) == (0, ""), said.stdout + said.stderr


def _fake(folder: Path, name: str, does: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/bash\n{does}\n")
    file.chmod(0o755)


def _started(command: list[str], folder: Path, **environment: str) -> list[str]:
    """The words with which a shell script starts torchrun, of which ``folder`` gets a fake."""
    _fake(folder, "torchrun", 'printf "%q " "$@"')
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    said = subprocess.run(
        command, env={**os.environ, **environment, "PATH": path}, capture_output=True, text=True, check=True
    )
    return shlex.split(said.stdout)
