"""A command: Hydra composes its settings, a dataclass checks them, and a mistake ends in a line.

Nothing here imports torch before the settings are known to be right.
"""

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TypeVar, cast

import hydra
import numpy as np
import oct_io
import oct_vjepa
import oct_xla
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from numpy.typing import NDArray
from oct_io.space.windows import find_window
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from oct_launch.arguments import SWEEP, Arguments, open_settings, read_arguments
from oct_launch.console import Mistake, exit_codes, one_line, print_whole
from oct_launch.hints import explain
from oct_launch.manual import write_manual
from oct_launch.processes import end_with_sweep
from oct_launch.restart import restarts
from oct_launch.sweep import Headline, Sweeping, split_jobs, sweep

Config = TypeVar("Config")

REFUSED = (HydraException, OmegaConfBaseException)
"""Errors of settings whose text tells the user what to put right."""

HEAD = """\
# Repeats {what}: uv run apps/{app} --config-dir THIS_FOLDER --config-name config run_dir=OTHER
defaults:
{defaults}
- override hydra/job_logging: none
- override hydra/hydra_logging: none
hydra: {{run: {{dir: .}}, output_subdir: null}}
"""
"""Put before the settings in config.yaml: their types, and Hydra without files of its own."""


@dataclass(kw_only=True, slots=True)
class RuntimeConfig:
    """Where an app computes."""

    device: str = "auto"
    """auto, cpu, cuda or xla."""

    precision: str = "fp32"
    """fp32, or bf16 autocast; parameters stay fp32."""

    parallel: str = "ddp"
    """ddp: each device holds all parameters. fsdp: they, their moments and the teacher are cut."""

    def pick(self) -> "oct_xla.Runtime":
        """Start the runtime.

        Raises:
            ValueError: no such device or precision.
            DeviceError: this machine lacks the device.
        """
        return oct_xla.pick_runtime(self.device, self.precision, self.parallel)


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of an app.

    Attributes:
        app: its name, that of its folder.
        settings: all of them, resolved; what the run folder keeps.
        given: what the command line sets, key=value each.
        choices: group of settings to what was chosen in it, by name.
    """

    app: str
    settings: DictConfig
    given: Sequence[str] = ()
    choices: Mapping[str, str] = field(default_factory=dict)

    def refuse_unread(self, key: str, instead: str) -> None:
        """Refuse a setting of the command line that this app has, but does not read.

        Raises:
            Mistake: names the setting and what serves instead.
        """
        if any(re.match(rf"\+*{re.escape(key)}=", one) for one in self.given):
            raise Mistake(f"{key} does nothing in {self.app}; {instead}")

    def claim_run_folder(
        self,
        what: str,
        *,
        groups: Sequence[str] = (),
        resume: str = "auto",
        may_change: Sequence[str] = (),
        rank: int = 0,
    ) -> "oct_xla.RunFolder":
        """Make or take up the folder that the setting `run_dir` names, and keep the settings there.

        It is a context; a folder in a bucket has everything, and is free, when that is left.

        Args:
            what: the settings repeat, in the words of a reader.
            groups: lines of the defaults list that give types to groups of settings.
            resume: as `oct_xla.claim_run_folder`; so are the others, and what is raised.
            may_change: settings that may differ on a resume.
            rank: number of this process.
        """
        place = self.settings.run_dir
        names = (f"{self.app}_schema", *groups, "_self_")
        head = HEAD.format(
            what=what, app=self.app, defaults="\n".join(f"- {name}" for name in names)
        )
        folder = oct_xla.claim_run_folder(
            place if "://" in place else Path(place),
            head + OmegaConf.to_yaml(self.settings),
            cast(dict[str, object], OmegaConf.to_container(self.settings)),
            resume=resume,
            may_change=may_change,
            rank=rank,
        )
        if rank == 0 and "*" not in may_change:
            for name, change in folder.changed.items():
                print(f"{name} was {change.before}, now {change.now}; the run goes on")
        return folder


def expected_errors() -> tuple[type[Exception], ...]:
    """Errors of a run whose text tells the user what to put right."""
    errors = (*REFUSED, oct_io.OctIoError, oct_xla.OctXlaError)
    # That of weights brings torch, and a run that has not imported torch has read no weights.
    return (*errors, oct_vjepa.WeightsError) if "torch" in sys.modules else errors


def app(
    name: str,
    schema: type[Config],
    *,
    headline: Headline,
    sweeping: Sweeping = Sweeping(),  # noqa: B008 - frozen
) -> Callable[[Callable[[Config, Launch], int]], Callable[[], None]]:
    """Make a command of a function: it takes the checked settings and returns the exit code.

    The command reads its arguments from `sys.argv`, and ends the process with code 2 and one line
    on stderr for what only the user can put right. `--help` and sweeps (`-m`) are answered here.

    Args:
        name: of the app, and of its file in configs/.
        schema: dataclass of the settings; Hydra knows it as NAME_schema from now on.
        headline: from the folder of a finished run to what a sweep's table says of it.
        sweeping: what the app adds to its sweeps.
    """
    ConfigStore.instance().store(f"{name}_schema", schema)

    def decorate(function: Callable[[Config, Launch], int]) -> Callable[[], None]:
        folder = Path(inspect.getfile(function)).parent
        configs = folder.parent.parent / "configs"

        @wraps(function)  # Hydra looks for configs/ from the file of what is wrapped
        def checked(tree: DictConfig) -> None:
            arguments = read_arguments(sys.argv[1:], name)
            # AttributeError: a key added with +; ValueError: what a dataclass refuses.
            hints = hinted(arguments, schema, configs, name, AttributeError, ValueError)
            with exit_codes(), hints:  # here as well: Hydra adds a line to what passes through it
                config = cast(Config, OmegaConf.to_object(tree))
                OmegaConf.resolve(tree)
            with exit_codes(known=expected_errors), restarts():
                choices = dict(HydraConfig.get().runtime.choices)
                if code := function(config, Launch(name, tree, arguments.overrides, choices)):
                    sys.exit(code)

        composed = hydra.main(version_base="1.3", config_path="../../configs", config_name=name)(
            checked
        )

        def command() -> None:
            # Without it Hydra prints several lines and exits with 1.
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")
            end_with_sweep()
            with exit_codes():
                sys.argv[1:] = open_settings(sys.argv[1:], schema)
                arguments = read_arguments(sys.argv[1:], name)
            with exit_codes(*REFUSED), hinted(arguments, schema, configs, name):
                if arguments.helps:
                    about = function.__globals__["__doc__"]
                    print_whole(write_manual(about, arguments.compose(configs), configs, name))
                elif arguments.queue or (
                    arguments.sweeps and len(split_jobs(arguments.overrides)[1]) > 1
                ):
                    sys.exit(sweep(arguments, folder, configs, headline, sweeping))
                else:
                    sys.argv[1:] = without_sweep(sys.argv[1:])
                    composed()

        return command

    return decorate


def without_sweep(arguments: Sequence[str]) -> list[str]:
    """The arguments of a single run, of a command line that asks for a sweep of one."""
    asked = {"-m", "--multirun"} & {*arguments}
    return [
        one for one in arguments if not asked or (one not in asked and not one.startswith(SWEEP))
    ]


@contextmanager
def hinted(
    arguments: Arguments, schema: type, configs: Path, name: str, *more: type[Exception]
) -> Iterator[None]:
    """Put the nearest right names, or the reason, in place of what Hydra says of an argument."""
    kinds: tuple[type[Exception], ...] = (*REFUSED, *more)
    try:
        yield
    except kinds as error:
        if said := explain(error, arguments.overrides, schema, configs, name):
            raise Mistake(said) from error
        raise Mistake(one_line(error)) from error


def check_positions(unit: str, shape: tuple[int, int, int], spacings: NDArray[np.float64]) -> None:
    """Refuse scans without millimetres for an encoder whose positions are lengths.

    Args:
        unit: the encoder's `position_unit`.
        shape: (Z, Y, X) of the volumes.
        spacings: of the volumes, (N, 3); the first is not needed where Z is 1.

    Raises:
        ValueError: some are not known.
    """
    needed = spacings[:, 1:] if shape[0] == 1 else spacings
    unknown = int((~np.isfinite(needed)).any(axis=1).sum())
    if unit == "length" and unknown:
        raise ValueError(
            f"encoder.position_unit=length needs the spacing of every scan, and nobody knows that "
            f"of {unknown:,} of {len(spacings):,}; say it (data.bscans.spacing_mm), or take an "
            "encoder with position_unit=index"
        )


def check_window(window: str, taken: tuple[int, int, int], *, otherwise: str) -> None:
    """Refuse a window whose volumes an encoder does not take, before any scan is read.

    Args:
        window: name of the window.
        taken: (Z, Y, X) of the volumes that the encoder takes.
        otherwise: who takes what, and how to put it right; ends the sentence.

    Raises:
        ValueError: the shapes differ.
    """
    shape = find_window(window).shape
    if shape != taken:
        raise ValueError(f"data.window={window} gives volumes of {shape}, but {otherwise}")
