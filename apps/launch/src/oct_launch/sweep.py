"""Several runs of one command line, each in a process and a folder of its own, one after the other.

A job that fails is told in a line and the rest go on; the same command again runs what is not done.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import product
from pathlib import Path
from types import FrameType

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from oct_launch.arguments import Arguments
from oct_launch.console import EXIT_STOPPED, Mistake, one_line, print_table
from oct_launch.places import refuse_url

TABLE = "sweep.json"
LONGEST = 80  # characters of a job's folder

Headline = Callable[[Path], Mapping[str, str]]
"""From the folder of a finished run to the numbers that stand in the table."""


@dataclass(slots=True)
class Job:
    """One run of a sweep.

    Attributes:
        name: what is set in it alone; its folder.
        overrides: the same as arguments.
        run_dir: its folder; "" where the settings are refused.
        settings: hash of all its settings; "" where they are refused.
        exit_code: None until it has ended.
        reason: why it failed, in its own words.
        headline: numbers of the table.
    """

    name: str
    overrides: list[str]
    run_dir: str = ""
    settings: str = ""
    exit_code: int | None = None
    reason: str = ""
    headline: dict[str, str] = field(default_factory=dict)


def sweep(arguments: Arguments, app: Path, configs: Path, headline: Headline) -> int:
    """Run every job that is not done, print and write the table, and return the exit code.

    Args:
        arguments: the command line, with at least one key of several values.
        app: folder of the app.
        configs: folder of the configurations.
        headline: reads the numbers of a job.

    Raises:
        Mistake: every job is refused for its settings, or several processes started this one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise Mistake("-m starts each run itself; start it without torchrun")
    fixed, jobs = split_jobs(arguments.overrides)
    place = _place(arguments, fixed, jobs, configs)
    before = _read(place)
    command = [sys.executable, str(app), *arguments.flags, *fixed]
    with _signals() as stop:
        for number, job in enumerate(jobs, start=1):
            done = before.get(job.name)
            if done and done.exit_code == 0 and job.settings and done.settings == job.settings:
                job.exit_code, job.headline = 0, done.headline
                print(f"{job.name}: done before in {job.run_dir}, not run again", flush=True)
            elif not stop.asked:
                print(f"job {number} of {len(jobs)}: {job.name}", flush=True)
                _run(command, job, stop, headline)
                # What is not reached yet keeps what stood there: it may be done already.
                ended = {one.name: one for one in jobs if one.exit_code is not None}
                _write(place, before | ended)
    _tell(place, jobs)
    if stop.asked:
        print(f"stopped; the same command goes on from there ({place / TABLE})")
        return EXIT_STOPPED
    return next((job.exit_code for job in jobs if job.exit_code), 0)


def split_jobs(overrides: Sequence[str]) -> tuple[list[str], list[Job]]:
    """What all runs have in common, and a job for each combination of the swept values.

    Raises:
        Mistake: a sweep over the names of files.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    fixed, swept = [], list[list[str]]()
    for text, one in zip(overrides, parsed, strict=True):
        if one.is_sweep_override():
            swept.append(_values(one))
        else:
            fixed.append(text)
    names = set[str]()
    jobs = []
    for chosen in product(*swept):
        job = Job(_name(chosen, names), list(chosen))
        names.add(job.name)
        jobs.append(job)
    return fixed, jobs


def _values(override: Override) -> list[str]:
    if not override.is_discrete_sweep() or "glob(" in (override.input_line or ""):
        raise Mistake(f"{override.input_line}: list the values, as in {override.key_or_group}=a,b")
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _name(chosen: Sequence[str], taken: set[str]) -> str:
    """What is set, as the name of a folder: short, without slashes, and unlike those taken."""
    parts = [one.split("=", 1) for one in chosen]
    keys = [re.split(r"[./@]", key.lstrip("+~"))[-1] for key, _ in parts]
    if len(set(keys)) < len(keys):
        keys = [key for key, _ in parts]
    text = ",".join(f"{key}={value}" for key, (_, value) in zip(keys, parts, strict=True))
    name = re.sub(r"[^\w.=,+-]+", "_", text).strip("._") or "job"
    if len(name) > LONGEST or name in taken:
        name = f"{name[:LONGEST]}-{sha256(','.join(chosen).encode()).hexdigest()[:8]}"
    return name


def _place(arguments: Arguments, fixed: Sequence[str], jobs: Sequence[Job], configs: Path) -> Path:
    """Give each job its folder, and return that of the table.

    A run folder that the swept keys name already, as `runs/x-seed${seed}` does, stays as it is.
    """
    errors: list[Exception] = []
    for job in jobs:
        try:
            # Only the job's: a swept argument of the command line is no value.
            one = Arguments(arguments.name, arguments.folder, tuple(fixed), (), False, False)
            tree = one.compose(configs, job.overrides)
            job.run_dir = str(tree.run_dir)
            job.settings = sha256(OmegaConf.to_yaml(tree, resolve=True).encode()).hexdigest()
        except (HydraException, OmegaConfBaseException) as error:
            errors.append(error)
    if len(errors) == len(jobs):
        raise errors[0]
    composed = [job for job in jobs if job.run_dir]
    folders = {job.run_dir for job in composed}
    for folder in folders:
        refuse_url("run_dir", folder)
    if len(folders) == 1:
        place = Path(composed[0].run_dir)
    else:
        shared = os.path.commonprefix(sorted(folders))  # noqa: RUF071 - letters are wanted
        parent, _, name = shared.rpartition("/")
        place = Path(parent) / f"sweep-{name}".rstrip("-_=.")
    if len(folders) < len(composed) or len(folders) == 1:
        for job in composed:
            job.run_dir = str(Path(job.run_dir) / job.name)
    return place


class _Stop:
    """A request to stop, handed on to the run in progress, which saves and ends."""

    def __init__(self) -> None:
        self.asked = False
        self.process: subprocess.Popen[str] | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.asked = True
        if self.process is not None:
            self.process.terminate()


@contextmanager
def _signals() -> Iterator[_Stop]:
    stop = _Stop()
    before = {one: signal.signal(one, stop.note) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _run(command: Sequence[str], job: Job, stop: _Stop, headline: Headline) -> None:
    """Run one job to its end; what it says on stderr passes through, but its reason to fail."""
    given = [f"run_dir={_quoted(job.run_dir)}"] if job.run_dir else []
    # A group of its own: Ctrl-C reaches this process alone, which hands on what saves a run.
    with subprocess.Popen(
        [*command, *job.overrides, *given],
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        process_group=0,
    ) as process:
        stop.process = process
        if stop.asked:  # while it was starting
            process.terminate()
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("error: "):
                job.reason = line[7:].strip()
            else:
                sys.stderr.write(line)
                sys.stderr.flush()
    stop.process = None
    code = process.returncode
    job.exit_code = code if code >= 0 else 128 - code  # a shell's number for a signal
    if job.exit_code == 0:
        job.headline = dict(headline(Path(job.run_dir)))
    elif not stop.asked:
        reason = f": {job.reason}" if job.reason else ""
        print(f"{job.name}: exit code {job.exit_code}{reason}", file=sys.stderr)


def _quoted(text: str) -> str:
    """A value that Hydra reads as it is, whatever is in it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _tell(place: Path, jobs: Sequence[Job]) -> None:
    keys = list(dict.fromkeys(key for job in jobs for key in job.headline))
    rows = [
        [job.name, "" if job.exit_code is None else str(job.exit_code)]
        + [job.headline.get(key, "") for key in keys]
        for job in jobs
    ]
    print_table(["job", "exit code", *keys], rows)
    print(f"table: {place / TABLE}")


def _read(place: Path) -> dict[str, Job]:
    """Jobs of this command or of one like it before.

    Raises:
        Mistake: the table is none.
    """
    try:
        found = json.loads((place / TABLE).read_text(encoding="utf-8"))
        return {one["name"]: Job(**one) for one in found["jobs"]}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise Mistake(f"{place / TABLE}: {one_line(error)}; delete it to begin anew") from error


def _write(place: Path, jobs: Mapping[str, Job]) -> None:
    place.mkdir(parents=True, exist_ok=True)
    draft = place / f".{TABLE}"
    draft.write_text(json.dumps({"jobs": [asdict(job) for job in jobs.values()]}, indent=1) + "\n")
    draft.replace(place / TABLE)
