"""Trains on several machines of a Ray cluster, which share the run folder.

Run: ray job submit --working-dir . -- python examples/launch/ray.py
"""

import os
import subprocess

from ray.train import ScalingConfig, get_context
from ray.train.torch import TorchConfig, TorchTrainer

TRAIN = [
    "headrace",
    "train",
    "examples/quickstart.yaml",
    "parallel.pp=8",
    "model.config.num_hidden_layers=8",
    "--run-dir",
    "/shared/runs/quickstart",
]


def train_on_this_machine() -> None:
    """Ray's worker holds a whole machine; torchrun starts a process for each of its devices."""
    machines = ["--nnodes", "2", "--nproc-per-node", "4"]
    machines += ["--node-rank", str(get_context().get_world_rank())]
    meeting = ["--master-addr", os.environ["MASTER_ADDR"], "--master-port", "29500"]
    subprocess.run(["torchrun", *machines, *meeting, "-m", *TRAIN], check=True)


if __name__ == "__main__":
    TorchTrainer(
        train_on_this_machine,
        torch_config=TorchConfig(backend="gloo"),  # Ray's own group, which only tells where the first machine is.
        scaling_config=ScalingConfig(
            num_workers=2,
            use_gpu=True,
            resources_per_worker={"GPU": 4},
            placement_strategy="STRICT_SPREAD",
        ),
    ).fit()
