"""Hugging Face models as chains of layers.

`Chain` and `Layer` are plain data; `headrace.chain.build`, `.part` and `.check` need torch and are imported by path.
"""

from headrace.chain.chain import RECOMPUTE_MODES, Chain, Layer, RecomputeMode

__all__ = ["RECOMPUTE_MODES", "Chain", "Layer", "RecomputeMode"]
