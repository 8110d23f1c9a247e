"""What `import headrace` offers, and what it does not drag in."""

import subprocess
import sys

import headrace


def test_every_public_name_is_there() -> None:
    assert sorted(headrace._HOME_OF) == sorted(headrace.__all__)
    assert all(getattr(headrace, name) is not None for name in headrace.__all__)


def test_the_pure_half_and_the_command_line_import_no_torch() -> None:
    pure = ["chain", "cluster", "costs", "schedule", "simulate", "plan", "view", "train.config", "cli"]
    imports = "; ".join(f"import headrace.{name}" for name in pure)
    script = f"import sys, headrace; {imports}; headrace.make_plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
