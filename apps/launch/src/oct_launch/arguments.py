"""The command line, as far as it is ours: what is set, and what Hydra is told besides."""

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_origin

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from oct_launch.console import Mistake
from oct_launch.queues import Queue
from oct_launch.settings import walk

SWEEP = "sweep."
"""How what is said of a sweep itself begins, which is no setting of its runs."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """One command line.

    Attributes:
        name: of the primary file.
        folder: further folder of configurations; "" for none.
        overrides: what sets something.
        flags: the rest, for Hydra.
        helps: whether it asks for help.
        sweeps: whether it asks for several runs.
        jobs: how many of them may run side by side; 0 where it is not said.
        queue: of a cluster, to which they are sent; None runs them here.
    """

    name: str
    folder: str
    overrides: tuple[str, ...]
    flags: tuple[str, ...]
    helps: bool
    sweeps: bool
    jobs: int = 0
    queue: Queue | None = None

    def compose(self, configs: Path) -> DictConfig:
        """The settings, unresolved.

        Args:
            configs: folder of the configurations.

        Raises:
            HydraException: no such setting or file, or a value of another type.
        """
        found = [f"hydra.searchpath=[file://{Path(self.folder).resolve()}]"] if self.folder else []
        with initialize_config_dir(str(configs.resolve()), version_base="1.3"):
            return compose(self.name, overrides=[*found, *self.overrides])


def read_arguments(arguments: Sequence[str], app: str) -> Arguments:
    """Read what follows the name of the program.

    Raises:
        Mistake: `sweep.jobs` is no number of runs, or there is no such cluster.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-cd", "--config-dir", default="")
    parser.add_argument("-cn", "--config-name", default=app)
    known, rest = parser.parse_known_args(arguments)
    overrides = [one for one in rest if not one.startswith("-") and ("=" in one or one[0] == "~")]
    flags = [one for one in rest if one not in overrides]
    jobs, queue = 0, None
    if known.multirun:
        said = dict(one[len(SWEEP) :].split("=", 1) for one in overrides if one.startswith(SWEEP))
        overrides = [one for one in overrides if not one.startswith(SWEEP)]
        jobs, queue = _read_sweep(said)
    flags += ["--config-dir", known.config_dir] if known.config_dir else []
    flags += ["--config-name", known.config_name] if known.config_name != app else []
    return Arguments(
        known.config_name,
        known.config_dir,
        tuple(overrides),
        tuple(flags),
        helps=known.help,
        sweeps=known.multirun,
        jobs=jobs,
        queue=queue,
    )


def _read_sweep(said: dict[str, str]) -> tuple[int, Queue | None]:
    """How many jobs at once, 0 where it is not said, and the queue that they are sent to."""
    jobs, cluster = said.pop("jobs", None), said.pop("on", None)
    if jobs is not None and (not jobs.isdecimal() or not int(jobs)):
        raise Mistake(f"{SWEEP}jobs={jobs}: must be a number of runs, 1 or more")
    if said and cluster is None:
        raise Mistake(
            f"{SWEEP}{next(iter(said))} is asked of the queue of a cluster: {SWEEP}on=slurm; runs "
            f"on this machine take {SWEEP}jobs alone"
        )
    options = {name: yaml.safe_load(value) for name, value in said.items()}
    return int(jobs or 0), None if cluster is None else Queue(cluster, options)


def open_settings(arguments: Sequence[str], schema: type) -> list[str]:
    """The arguments with ++ before each setting whose keys are the user's: weights by name, say.

    Hydra else lets nobody name a key that is not there yet. Where an entry is a section of settings
    of its own, a config of a group has brought it, and its keys are ours.
    """
    names = tuple(
        one.key for one in walk(schema) if get_origin(one.type) is dict and one.entry is None
    )
    begin = (*(f"{name}=" for name in names), *(f"{name}." for name in names))
    return [f"++{one}" if one.startswith(begin) else one for one in arguments]
