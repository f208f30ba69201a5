"""What a library may import, as it really happens and not only as the sources say."""

import json
import subprocess
import sys

import pytest

LOADED = """
import json, sys
import {library}
print(json.dumps(sorted({{name.split(".")[0] for name in sys.modules}})))
"""


def modules_after_importing(library: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after `import library`."""
    out = subprocess.run(
        [sys.executable, "-c", LOADED.format(library=library)],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(json.loads(out.stdout))


@pytest.mark.parametrize(
    ("library", "never"),
    [
        ("oct_io", {"torch", "torch_xla", "hydra", "omegaconf", "oct_vjepa", "oct_xla", "monai"}),
        ("oct_vjepa", {"torch_xla", "hydra", "omegaconf", "oct_io", "oct_xla", "sklearn"}),
        ("oct_xla", {"torch_xla", "hydra", "omegaconf", "oct_io", "oct_vjepa", "wandb"}),
    ],
)
def test_importing_a_library_loads_neither_its_siblings_nor_what_it_may_not_use(library, never):
    loaded = modules_after_importing(library)
    assert library in loaded
    assert not loaded & never
