"""Prints, as JSON, the most memory that building parts of a model of 8 layers takes: ``python -m tests.chain.peaks``.

A process of its own, since a process that has run other tests has freed memory to build in unseen.
"""

import gc
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from headrace.chain.build import ModelSource

WIDTHS = {"vocab_size": 64, "hidden_size": 512, "intermediate_size": 2688, "num_attention_heads": 8}
BOUNDS = ((0, 3), (3, 5), (5, 7), (7, 10))


def _status(key: str) -> int:
    found = re.search(rf"{key}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def peak_bytes(work: Callable[[], object]) -> int:
    """Most resident bytes while ``work`` ran and its answer was alive, above those before."""
    gc.collect()  # Parts and their hooks refer to each other.
    Path("/proc/self/clear_refs").write_text("5")  # The high-water mark falls to what is resident now.
    before = _status("VmRSS")
    kept = work()
    peak = _status("VmHWM") - before
    del kept
    return peak


def main() -> None:
    torch.set_num_threads(1)
    config = AutoConfig.for_model("llama", num_hidden_layers=8, **WIDTHS)
    small = AutoConfig.for_model("llama", num_hidden_layers=1, **WIDTHS | {"hidden_size": 8, "intermediate_size": 8})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        AutoModelForCausalLM.from_config(small).save_pretrained(folder / "small")
        ModelSource(small, folder / "small").build(0, 2)  # Imports what building imports.
        whole = AutoModelForCausalLM.from_config(config)
        layer_bytes = 4 * sum(p.numel() for p in whole.model.layers[0].parameters())
        whole.save_pretrained(folder)
        del whole
        drawn = ModelSource(config)
        read = ModelSource(config, folder)
        _ = drawn.anatomy, read.anatomy
        answer = {
            "layer_bytes": layer_bytes,
            "drawn": [peak_bytes(lambda b=b: drawn.build(*b)) for b in BOUNDS],
            "read": [peak_bytes(lambda b=b: read.build(*b)) for b in BOUNDS],
            "whole": peak_bytes(lambda: AutoModelForCausalLM.from_config(config)),
        }
    print(json.dumps(answer))  # noqa: T201


if __name__ == "__main__":
    main()
