"""Runs apps/pretrain several times in one process, which spares ten seconds of imports a run.

python tests/several_runs.py '{"one": ["experiment=smoke", "run_dir=DIR"], "other": [...]}' [HELD]

Writes to the file HELD in how many parts XLA devices held each tensor at the end of each run.
"""

import importlib
import json
import runpy
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from oct_launch import Launch
from omegaconf import OmegaConf

ROOT = Path(__file__).parent.parent


def open_app():
    """The module of the app that makes a run, its schemas registered."""
    app = ROOT / "apps" / "pretrain"
    sys.path.insert(0, str(app))
    runpy.run_path(str(app / "__main__.py"), run_name="pretrain")  # registers its schemas
    return importlib.import_module("pretraining")


def run(pretraining, overrides):
    """Make one run; returns the exit code."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        tree = compose("pretrain", overrides=overrides)
    config = OmegaConf.to_object(tree)
    OmegaConf.resolve(tree)
    return pretraining.run(config, Launch("pretrain", tree))


def main(runs, held=None):
    """Make each run; the first that fails ends the program."""
    pretraining = open_app()
    if held is not None:
        sys.path.insert(0, str(ROOT / "packages/oct-xla/tests"))
        from spread import watched

        found, by_name = watched(), {}
    for name, overrides in runs.items():
        if code := run(pretraining, overrides):
            raise SystemExit(f"{name} ended with {code}")
        if held is not None and found:
            (by_name[name],) = found
            found.clear()
    if held is not None:
        Path(held).write_text(json.dumps(by_name))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), *sys.argv[2:])
