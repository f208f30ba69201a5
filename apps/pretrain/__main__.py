"""Pretrain an encoder on OCT scans: from files to a run folder with weights, curves and a report.

uv run apps/pretrain                                     made-up retinas, no data needed
uv run apps/pretrain data=folder data.root=DIR           any folder of scans
uv run apps/pretrain data=bscans data.root=DIR           any folder of images, each a B-scan
uv run apps/pretrain data=kermany data.root=DIR          a public set as published; oct-io datasets
uv run apps/pretrain data=folder data.root=DIR propose.to=plan.yaml    settings with their reasons
uv run apps/pretrain plan=plan.yaml                      and a run with them
uv run apps/pretrain experiment=continued init=FILE data.window=macula6 data=...  from V-JEPA 2
uv run apps/pretrain ... experiment=continued init=FILE grid=momentum             a run a momentum
uv run apps/pretrain objective=salt_smoke teacher=DIR    features of any frozen encoder
uv run apps/pretrain data=aireadi data.root=DIR more.fv=fairvision more.fv.root=DIR     of two sets
uv run apps/pretrain runtime=xla parallel=fsdp profile=10:15    cut over devices; a trace of steps
uv run apps/pretrain -m seed=0,1                         one run after the other, and a table
uv run apps/pretrain --help                              every setting, its value and its text
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is one of Python's after ending_at_once

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from oct_io.datasets.registry import RECIPES
from oct_launch import Launch, Mistake, Sweeping, app, ending_at_once, exit_codes
from oct_vjepa.presets.choices import OBJECTIVES
from settings import PretrainConfig

ONLINE = "probe_linear_auroc_"
"""How the keys of the online probe begin; the label column follows."""

BSCANS = ("bscans", *(one.name for one in RECIPES.values() if one.bscans))
FITTING = {
    **{f"data={name}": "encoder=bscan_tiny" for name in BSCANS},
    **{f"objective={one.name}": f"masking={one.masking.name}" for one in OBJECTIVES.values()},
}
"""Data whose windows the default encoder does not take, and one that takes them; objectives, and
the masks that each was made for."""
SHORT = {
    "init": "initial",
    "teacher": "objective.teacher",
    "parallel": "runtime.parallel",
    "profile": "loop.profile",
}
"""Short names of settings."""
GRIDS = {
    "momentum": ("objective.ema_kind=constant", "objective.ema_start=0.99,0.997,0.999,0.9995"),
}
"""Sweeps by name. momentum: of the teacher, to which small sets are sensitive; around the 0.99925
of V-JEPA 2 (facebookresearch/vjepa2 issue 93)."""
MORE = re.compile(r"more\.([\w-]+)=([\w./,-]+)")
"""What takes a further set of volumes by a config of `data`."""
WHOLE = ("experiment=", "preset=", "plan=", "-cn", "--config-name")
"""How arguments begin that choose encoder and masks, or may."""


def headline(run_dir: Path) -> dict[str, str]:
    """The last loss, and the last AUROC of each label column while training."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last = {key: value for line in lines for key, value in json.loads(line).items()}
    columns = {key[len(ONLINE) :]: value for key, value in last.items() if key.startswith(ONLINE)}
    told = {"loss": f"{last['loss']:.4f}"}
    return told | {f"AUROC {name}": f"{value:.3f}" for name, value in columns.items()}


def add_fitting(arguments: Sequence[str]) -> list[str]:
    """Choose the encoder that fits the data, and the masks that the objective was made for.

    What the command line chooses stays, and so does what a whole run by name has chosen.
    """
    added: list[str] = []
    for one in arguments:
        added.append(one)
        fitting = FITTING.get(one, "")
        own = (f"{fitting.partition('=')[0]}=", *WHOLE)
        if fitting and not any(other.startswith(own) for other in arguments):
            # Beside what it fits: what sets something stands together, before or after all flags.
            added.append(fitting)
    return added


@app("pretrain", PretrainConfig, headline=headline, sweeping=Sweeping(complete=add_fitting))
def pretrain(config: PretrainConfig, launch: Launch) -> int:
    """Run what `config` asks for; returns the exit code."""
    if config.propose.to:
        with ending_at_once():
            from planning import make_plan

        return make_plan(config)
    with ending_at_once():
        from pretraining import run  # brings torch, which a misspelt setting need not wait for

    return run(config, launch)


def spell_out(arguments: Sequence[str]) -> list[str]:
    """Turn our own words into Hydra's: short names, `more.NAME=`, `grid=NAME`, and `plan=FILE`.

    Raises:
        Mistake: no such plan or grid.
    """
    spelt: list[str] = []
    for one in arguments:
        name, _, value = one.partition("=")
        if name in SHORT:
            spelt.append(f"{SHORT[name]}={value}")
        elif further := MORE.fullmatch(one):
            # Named after itself, so that two sets of one config do not share a cache.
            name, config = further.groups()
            spelt += [f"+data@more.{name}={config}", f"more.{name}.name={name}"]
        elif name == "grid":
            if value not in GRIDS:
                raise Mistake(f"{one}: must be one of {', '.join(GRIDS)}")
            spelt += ["-m", *GRIDS[value]]
        elif name == "plan":
            file = Path(one[5:])
            if not file.is_file() or file.suffix != ".yaml":
                raise Mistake(f"{one}: there is no such plan; propose.to={one[5:]} writes one")
            spelt += ["--config-dir", str(file.parent), "--config-name", file.stem]
        else:
            spelt.append(one)
    return spelt


if __name__ == "__main__":
    with exit_codes():
        sys.argv[1:] = spell_out(add_fitting(sys.argv[1:]))
    pretrain()
