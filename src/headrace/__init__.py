"""headrace: pipeline-parallel training that plans, explains and runs."""

__version__ = "0.1.0"
