"""Several runs of one command line, each in a process and a folder of its own.

They run N side by side on this machine, or as jobs in the queue of a cluster.

A job that fails is told in a line and the rest go on; the same command again runs what is not done.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from threading import Lock

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from oct_launch.arguments import Arguments, read_arguments
from oct_launch.console import EXIT_STOPPED, Mistake, one_line, print_table
from oct_launch.places import refuse_url
from oct_launch.processes import LOOK_S, Stop, run_process, share_threads, signals
from oct_launch.queues import Queued

TABLE = "sweep.json"
QUEUED = "sweep-jobs"
"""Folder of what the jobs of a queue say, beside the table."""
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
        read: what stands for what it has read, see `Sweeping`; "" until it is done.
        queued: its last job in a queue, as in slurm:4711; "" where there is none.
        exit_code: None until it has ended.
        reason: why it failed, in its own words.
        headline: numbers of the table.
    """

    name: str
    overrides: list[str]
    run_dir: str = ""
    settings: str = ""
    read: str = ""
    queued: str = ""
    exit_code: int | None = None
    reason: str = ""
    headline: dict[str, str] = field(default_factory=dict)


def _nothing_read(where: object) -> str:
    del where
    return ""


def _nothing_added(arguments: Sequence[str]) -> list[str]:
    return list(arguments)


def _nothing_more(place: Path, jobs: Sequence[Job]) -> None:
    del place, jobs


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweeping:
    """What an app adds to its sweeps.

    Attributes:
        complete: from the arguments of a job to those with what they bring along; the app does the
            same when it runs the job, and settings that nobody typed count as those that somebody
            did.
        has_read: from the folder of a finished run to what stands for the files that it has read,
            such as the fingerprint of weights.
        will_read: the same of a job that is not run yet, from its settings. Where the two differ, a
            job that is done is run again.
        finish: called at the end with the folder of the sweep and its jobs; may raise `Mistake`.
    """

    complete: Callable[[Sequence[str]], list[str]] = _nothing_added
    has_read: Callable[[Path], str] = _nothing_read
    will_read: Callable[[DictConfig], str] = _nothing_read
    finish: Callable[[Path, Sequence[Job]], None] = _nothing_more


def sweep(
    arguments: Arguments, app: Path, configs: Path, headline: Headline, sweeping: Sweeping
) -> int:
    """Run every job that is not done, print and write the table, and return the exit code.

    Args:
        arguments: the command line, with at least one key of several values.
        app: folder of the app.
        configs: folder of the configurations.
        headline: reads the numbers of a job.
        sweeping: what the app adds.

    Raises:
        Mistake: every job is refused for its settings, several processes started this one, or the
            app cannot finish.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise Mistake("-m starts each run itself; start it without torchrun")
    fixed, jobs = split_jobs(arguments.overrides)
    place, trees = _place(arguments, fixed, jobs, configs, sweeping)
    before, table = _read(place), Lock()
    command = [sys.executable, str(app), *arguments.flags, *fixed]
    done = {job.name for job in jobs if _is_done(job, before, trees, sweeping)}
    begun = {job.name: _begun(job, before) for job in jobs}
    queued = None if arguments.queue is None else Queued(arguments.queue, place / QUEUED)
    at_once = arguments.jobs or (1 if queued is None else len(jobs))

    def keep() -> None:
        # What is not reached yet keeps what stood there: it may be done already.
        reached = {one.name: one for one in jobs if one.exit_code is not None or one.queued}
        with table:
            _write(place, before | reached)

    def take(number: int, job: Job, stop: Stop) -> None:
        if job.name in done:
            job.exit_code, job.headline = 0, before[job.name].headline
            job.read = before[job.name].read
            print(f"{job.name}: done before in {job.run_dir}, not run again", flush=True)
        elif not stop.asked:
            whole = [*command, *job.overrides, *_run_dir_of(job)]
            if queued is None:
                print(f"job {number} of {len(jobs)}: {job.name}", flush=True)
                ended = run_process(whole, stop, f"[{number}] " if at_once > 1 else "")
            else:
                ended = queued.run(whole, stop, begun[job.name], partial(note, number, job))
            _conclude(job, *ended, stop, headline, sweeping)

    def note(number: int, job: Job, name: str, said: Path) -> None:
        job.queued = name
        keep()
        print(
            f"job {number} of {len(jobs)}: {job.name}: in the queue as {name}, says {said}",
            flush=True,
        )

    if queued is None:
        share_threads(at_once)
    with signals() as stop, ThreadPoolExecutor(at_once) as pool:
        turns = [pool.submit(take, number, job, stop) for number, job in enumerate(jobs, start=1)]
        try:
            left = set(turns)
            while left:
                # A signal on the way into a wait is seen after it: none may be without an end.
                ended, left = wait(left, timeout=LOOK_S, return_when=FIRST_COMPLETED)
                for turn in ended:
                    turn.result()
                    keep()
        except BaseException:
            stop.ask()  # else the error is told when all other jobs have run
            raise
    _tell(place, jobs)
    if stop.asked:
        print(f"stopped; the same command goes on from there ({place / TABLE})")
        return EXIT_STOPPED
    sweeping.finish(place, jobs)
    return next((job.exit_code for job in jobs if job.exit_code), 0)


def _is_done(
    job: Job, before: Mapping[str, Job], trees: Mapping[str, DictConfig], sweeping: Sweeping
) -> bool:
    """Whether a job has run with these settings, and with what it would read now."""
    found = before.get(job.name)
    if not found or found.exit_code or not job.settings or found.settings != job.settings:
        return False
    return found.exit_code == 0 and sweeping.will_read(trees[job.name]) == found.read


def _begun(job: Job, before: Mapping[str, Job]) -> str:
    """The job in a queue that an earlier sweep has not seen end, of the same settings."""
    found = before.get(job.name)
    if found and found.queued and found.exit_code is None and found.settings != job.settings:
        raise Mistake(
            f"{job.name}: {found.queued} may still be at work in {job.run_dir} with other settings;"
            " cancel it, and delete the table of the sweep, or choose another run_dir"
        )
    waits = found and found.exit_code is None and job.settings and found.settings == job.settings
    return found.queued if found and waits else ""


def _conclude(
    job: Job, code: int, reason: str, stop: Stop, headline: Headline, sweeping: Sweeping
) -> None:
    """Keep how a job ended."""
    if code == 0:
        try:
            job.headline = dict(headline(Path(job.run_dir)))
            job.read = sweeping.has_read(Path(job.run_dir))
        except (OSError, ValueError, LookupError, TypeError) as error:  # the other jobs go on
            code, reason = 1, f"{job.run_dir}: what it left cannot be read: {one_line(error)}"
    job.reason = reason
    if code and not stop.asked:
        print(f"{job.name}: exit code {code}{reason and ': '}{reason}", file=sys.stderr)
    job.exit_code = code


def _run_dir_of(job: Job) -> list[str]:
    return [f"run_dir={_quoted(job.run_dir)}"] if job.run_dir else []


def _quoted(text: str) -> str:
    """A value that Hydra reads as it is, whatever is in it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


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


def _place(
    arguments: Arguments,
    fixed: Sequence[str],
    jobs: Sequence[Job],
    configs: Path,
    sweeping: Sweeping,
) -> tuple[Path, dict[str, DictConfig]]:
    """Give each job its folder, and return that of the table, and the settings of jobs by name.

    A run folder that the swept keys name already, as `runs/x-seed${seed}` does, stays as it is.
    """
    errors: list[Exception] = []
    trees: dict[str, DictConfig] = {}
    for job in jobs:
        try:
            # Only the job's: a swept argument of the command line is no value.
            given = sweeping.complete([*arguments.flags, *fixed, *job.overrides])
            tree = read_arguments(given, arguments.name).compose(configs)
            job.run_dir, trees[job.name] = str(tree.run_dir), tree
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
    return place, trees


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
