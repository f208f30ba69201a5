"""Stands in for Slurm: sbatch starts what it is given, in a session of its own on this machine.

The folder STANDIN holds, for each job, a file with its state, one with its session while it runs,
and one that asks for it to be queued again; while `hold` lies there, jobs wait, and while
`no-accounts` does, nobody keeps account of them. Called by the name of the command that it stands
for.
"""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

PLACE = Path(os.environ.get("STANDIN", ""))
COMMANDS = ("sbatch", "srun", "sacct", "scancel", "scontrol", "attend")


def sbatch(script):
    """Queue a script, unless it names a partition that is not there."""
    if "--partition=nowhere" in Path(script).read_text():
        sys.exit("sbatch: error: invalid partition specified: nowhere")
    number = str(len(list(PLACE.glob("*.state"))) + 1)
    (PLACE / f"{number}.state").write_text("PENDING")
    subprocess.Popen(
        [sys.executable, __file__, "attend", number, script],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    print(f"Submitted batch job {number}")


def attend(number, script):
    """Run a job, again as often as it is queued again."""
    state, again = PLACE / f"{number}.state", PLACE / f"{number}.again"
    while (PLACE / "hold").exists() and state.read_text() == "PENDING":
        time.sleep(0.05)
    if state.read_text() == "CANCELLED":
        return
    code = None
    while code is None or again.exists():
        again.unlink(missing_ok=True)
        state.write_text("RUNNING")
        environment = {**os.environ, "SLURM_JOB_ID": number, "SLURM_PROCID": "0"}
        job = subprocess.Popen(["bash", script], env=environment, start_new_session=True)
        (PLACE / f"{number}.session").write_text(str(job.pid))
        code = job.wait()
    if state.read_text() != "CANCELLED":
        state.write_text("FAILED" if code else "COMPLETED")


def srun(*arguments):
    """Run a step of a job; what it says goes to its files."""
    names = {"--output": 1, "--error": 2}
    given = list(arguments)
    while given and given[0].startswith("--"):
        option = given.pop(0)
        if option in names:
            path = given.pop(0).replace("%j", os.environ["SLURM_JOB_ID"]).replace("%t", "0")
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), names[option])
    os.execvp(given[0], given)


def sacct(*arguments):
    """Say how jobs are."""
    if (PLACE / "no-accounts").exists():
        sys.exit("Slurm accounting storage is disabled")
    print("JobID|State|NodeList")
    asked = [value for flag, value in pairwise(arguments) if flag == "-j"]
    for number in asked:
        with suppress(FileNotFoundError):
            print(f"{number}|{(PLACE / f'{number}.state').read_text()}|here")


def processes_of(number):
    """All processes of a job, but the shell of its script, as a container of Slurm knows them."""
    session = (PLACE / f"{number}.session").read_text()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            found = re.sub(r"\(.*\)", "name", stat.read_text()).split()
            if found[5] == session and found[0] != session:
                yield int(found[0])


def send(number, name):
    for process in list(processes_of(number)):
        with suppress(ProcessLookupError):
            os.kill(process, signal.Signals[f"SIG{name}"])


def scancel(number):
    """End a job: all of its processes are asked to."""
    (PLACE / f"{number}.state").write_text("CANCELLED")
    if (PLACE / f"{number}.session").exists():
        send(number, "TERM")


def scontrol(*words):
    """Queue a job again, or show one that has not ended."""
    *asked, number = words
    if asked == ["requeue"]:
        (PLACE / f"{number}.again").touch()
        return
    assert asked == ["show", "job"]
    state = (PLACE / f"{number}.state").read_text()
    if state not in ("PENDING", "RUNNING"):
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    print(f"JobId={number} JobName=oct-sweep JobState={state}")


if __name__ == "__main__":
    {name: globals()[name] for name in COMMANDS}[sys.argv[1]](*sys.argv[2:])
