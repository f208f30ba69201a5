"""Runs the apps: as programs, and inside this process where only a mistake is looked for."""

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import pytest
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).parent.parent
BESIDE = (
    "pretraining",
    "gathering",
    "planning",
    "planfile",
    "benching",
    "pairing",
    "report",
    "samples",
    "settings",
    "smaller",
    "watching",
    "mixing",
    "tracking",
    "evaluation",
    "question",
    "results",
    "recipe",
    "examples",
    "learning",
    "training",
    "segmenting",
)  # modules beside an app's __main__.py
TIME_LIMIT = 600


class Outcome(NamedTuple):
    """How an app ended."""

    code: int
    out: str
    errors: str

    @property
    def error_lines(self) -> list[str]:
        return self.errors.splitlines()


class Run(NamedTuple):
    """A finished smoke run with its data."""

    path: Path
    data: Path
    outcome: Outcome

    @property
    def rows(self) -> list[dict]:
        return [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]


def _environment(**more: str) -> dict[str, str]:
    """One thread: sums of floats then have one order, whatever else the machine does."""
    names = ("PJRT_DEVICE", "CPU_NUM_DEVICES", "XLA_FLAGS", "WANDB_API_KEY")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return {**kept, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2", **more}


@contextmanager
def _loaded(*arguments: str, name: str = "__main__") -> Iterator[None]:
    """Leave the interpreter's globals as they were before an app ran in it."""
    before, path, known = list(sys.argv), list(sys.path), os.environ.copy()
    store = ConfigStore.instance()
    repo = dict(store.repo)
    held = {name: sys.modules.pop(name) for name in BESIDE if name in sys.modules}
    sys.argv[1:], interrupt = arguments, signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, interrupt)
        sys.argv[:], sys.path[:], store.repo = before, path, repo
        os.environ.clear()
        os.environ.update(known)
        GlobalHydra.instance().clear()
        for module in BESIDE:
            sys.modules.pop(module, None)
        sys.modules.update(held)


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Where the programs run: what they name relative to the working folder lands here."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="session")
def environment():
    """`environment(NAME=value)` gives what a program runs in: one thread, and no XLA by chance."""
    return _environment


@pytest.fixture(scope="session")
def torchrun():
    """`torchrun(2)` gives what stands behind Python for two processes; for one nothing does."""

    def launcher(processes):
        if processes == 1:
            return []
        return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]

    return launcher


@pytest.fixture(scope="session")
def start(place, torchrun):
    """Starts an app as a program, or as several by torchrun."""

    started = []

    def start(app, *overrides, processes=1, **environment):
        process = subprocess.Popen(
            [sys.executable, *torchrun(processes), str(ROOT / "apps" / app), *map(str, overrides)],
            cwd=place,
            env=_environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:  # what a failed test has left
        process.kill()


@pytest.fixture(scope="session")
def finish():
    """Waits for a program."""

    def finish(process):
        out, errors = process.communicate(timeout=TIME_LIMIT)
        return Outcome(process.returncode, out, errors)

    return finish


@pytest.fixture(scope="session")
def run_app(start, finish):
    """Runs an app as a program, to its end."""

    def run(app, *overrides, **how):
        return finish(start(app, *overrides, **how))

    return run


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a program here: sums then have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _caught(number: int, redirect: type) -> Iterator[Callable[[], str]]:
    """Catch what is written to a stream, by Python or below it; gives how to read it."""
    kept = os.dup(number)
    with TemporaryFile("w+", buffering=1) as file:
        os.dup2(file.fileno(), number)
        try:
            with redirect(file):
                yield lambda: (file.seek(0), file.read())[1]
        finally:
            os.dup2(kept, number)
            os.close(kept)


@pytest.fixture(scope="session")
def call_app(place):
    """Runs an app inside this process, which spares ten seconds of imports.

    It computes with one thread, as a program does here, and so gives the same bits.
    """

    def call(app, *overrides):
        code = 0
        caught = _caught(1, redirect_stdout), _caught(2, redirect_stderr)
        with chdir(place), _one_thread(), caught[0] as out, caught[1] as errors:
            with _loaded(*map(str, overrides)):
                try:
                    runpy.run_path(str(ROOT / "apps" / app), run_name="__main__")
                except SystemExit as end:
                    code = end.code
            return Outcome(code, out(), errors())

    return call


@pytest.fixture(scope="session")
def smoke(place, run_app):
    """The smoke experiment, run once for all tests that read its folder."""
    run_dir, data = place / "smoke", place / "data"
    outcome = run_app(
        "pretrain", "experiment=smoke", f"run_dir={run_dir}", f"data.root={data}",
        f"probe.features={place / 'kept' / 'features'}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    return Run(run_dir, data, outcome)


@pytest.fixture(scope="session")
def samples():
    folder = os.environ.get("OCT_SAMPLES")
    if not folder:
        pytest.skip("set OCT_SAMPLES to the folder of real scans to run this test")
    return Path(folder).resolve()
