"""The example in the README runs as it stands, and every public name is in its table."""

import re
import subprocess
import sys
from pathlib import Path

import oct_vjepa

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_example_runs():
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    space = {}
    exec(example, space)
    assert all(weight.grad is not None for weight in space["jepa"].encoder.parameters())


def test_every_public_name_is_in_the_table_and_there_are_few():
    assert [name for name in oct_vjepa.__all__ if f"`{name}`" not in README] == []
    assert len(oct_vjepa.__all__) <= 25


def test_importing_loads_neither_scikit_learn_nor_another_library_of_this_workspace():
    code = "import oct_vjepa, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"sklearn", "transformers", "oct_io", "oct_xla"} & set(run.stdout.split())
