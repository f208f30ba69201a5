"""Runs the toy over and over in forked children and kills them, to spare the import of torch.

python killed.py random FOLDER COUNT     kill -9 at a random moment, until the run is through
python killed.py ranks FOLDER COUNT      the same of one of two processes, or of both at once
python killed.py parts FOLDER            kill -9 one of two before it writes its part of a save
python killed.py between FOLDER          kill -9 before each of its file operations in turn
python killed.py bucket FOLDER URL ...   kill -9 at random moments, the disk gone each time
python killed.py steps FOLDER URL        kill -9 before each change of the bucket, the disk gone
python killed.py apart FOLDER URL        the same of each of two processes with a disk of its own

Options of the toy may follow COUNT. Prints a line of JSON for each run: how often it was killed,
and whether rows, tensors and the best checkpoint are those of a run that was never killed.
"""

import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import torch
from oct_xla import Checkpoints, read_rows
from oct_xla.folder.bucket import Bucket
from oct_xla.telling.metrics import CLOCKS
from programs import free_port
from toy import options_of, train

OPTIONS = ("--steps", "40", "--every", "2", "--dropout", "0.1", "--evaluate-every", "3")
FAR = ("--steps", "40", "--every", "5", "--dropout", "0.1", "--evaluate-every", "10")
GONE = "\nRuntimeError: another process of this run has ended; "
BEAT = ("--beat", "0.05")
SHORT = ("--steps", "8", "--every", "2", "--evaluate-every", "4")
RANKS = 2
ALONE_S = 20.0  # on a busy machine
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")


def start(run_dir, options, before_end=None, url=""):
    """Fork a child that trains in `run_dir`, or the bucket at `url`; returns its id."""
    child = os.fork()
    if child:
        return child
    sys.stderr = open(run_dir.with_suffix(".err"), "a", buffering=1)  # noqa: SIM115 - until it ends
    for number in (1, 2):  # where gloo speaks
        os.dup2(sys.stderr.fileno(), number)
    code = 1
    try:
        if before_end is not None:
            before_end()
        code = train(options_of([str(url or run_dir), *options]))
    except BaseException:  # as Python would, but no child may go on with what the parent does
        traceback.print_exc()
    finally:
        os._exit(code)


def outcome(run_dir, step):
    """Rows without clocks, tensors as bytes, and the best checkpoint."""
    store = Checkpoints(run_dir / "checkpoints")
    rows = [
        {k: v for k, v in row.items() if k not in CLOCKS}
        for row in read_rows(run_dir / "metrics.jsonl")
    ]
    tensors = {name: t.numpy().tobytes() for name, t in store.load(step).tensors.items()}
    best = json.loads((run_dir / "checkpoints/best.json").read_text())
    return {"rows": rows, "tensors": tensors, "best": best, "kept": store.best()}


def report(run_dir, kills, whole, step, **more):
    found = outcome(run_dir, step)
    equal = {name: found[name] == value for name, value in whole.items()}
    left = sorted(path.name for path in (run_dir / "checkpoints").glob(".tmp*"))
    print(json.dumps({"kills": kills, **equal, "left": left, **more}), flush=True)


def wait(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_random(folder, count):
    options = (*OPTIONS, *sys.argv[4:])
    train(options_of([str(folder / "warm-up"), *options]))  # torch imports half of itself late
    began = time.monotonic()
    assert wait(start(folder / "whole", options)) == 0
    lasts_s, whole = time.monotonic() - began, outcome(folder / "whole", 40)
    for number in range(count):
        draws, kills, code = np.random.default_rng(number), 0, None
        run_dir = folder / f"run-{number}"
        while code != 0:
            child = start(run_dir, options)
            if kills < 3:
                time.sleep(draws.uniform(0, lasts_s))
                os.kill(child, signal.SIGKILL)
            code = wait(child)
            assert code in (0, -signal.SIGKILL), code
            kills += code != 0
            if code == 0 and kills == 0:  # through before the signal came: once more
                shutil.rmtree(run_dir)
                code = None
        report(run_dir, kills, whole, 40)


def start_ranks(run_dir, options, first=lambda rank: None, url=""):
    """Fork children that train in `run_dir`, or a bucket, together; returns their ids by rank."""
    port = free_port()

    def join(rank):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": RANKS, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in names.items()})
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        first(rank)

    return [start(run_dir, options, partial(join, rank), url) for rank in range(RANKS)]


def end_ranks(children):
    """How each ended, and whether one of them had to be told: as torchrun does, which waits 30 s.

    Who is left alone notices at its next word with the others, if it has ever met them.
    """
    first, codes, told = 0.0, {}, False
    while len(codes) < len(children):
        lasts_s = time.monotonic() - first if codes else 0.0
        for child in set(children) - set(codes):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                codes[child], first = os.waitstatus_to_exitcode(status), time.monotonic()
            elif lasts_s > ALONE_S + 30:
                os.kill(child, signal.SIGKILL)
                raise AssertionError(f"a process goes on alone: {codes}")
            elif lasts_s > ALONE_S and not told:
                os.kill(child, signal.SIGTERM)
                told = True
        time.sleep(0.01)
    return [codes[child] for child in children], told


def train_whole(folder, options, steps):
    """Seconds that a run of all processes takes, and what it leaves."""
    import torch._dynamo  # which an optimiser imports, in seconds
    import torch.distributed.fsdp  # noqa: F401

    began = time.monotonic()
    assert end_ranks(start_ranks(folder / "whole", options)) == ([0, 0], False)
    return time.monotonic() - began, outcome(folder / "whole", steps)


def said(run_dir):
    """How often a process has said that another one has ended."""
    return run_dir.with_suffix(".err").read_text().count(GONE)


def kill_ranks_at_random(folder, count):
    """In turn the first of two processes, the second, and both; says how others ended, and why."""
    options = (*OPTIONS, *sys.argv[4:])
    lasts_s, whole = train_whole(folder, options, 40)
    victims = ((0,), (1,), (0, 1))
    for number in range(count):
        draws, kills, codes, alone = np.random.default_rng(number), 0, None, []
        run_dir = folder / f"run-{number}"
        while codes != [0, 0]:
            children = start_ranks(run_dir, options)
            if kills < 3:
                time.sleep(draws.uniform(0, lasts_s))
                for rank in victims[(number + kills) % len(victims)]:
                    os.kill(children[rank], signal.SIGKILL)
            codes, told = end_ranks(children)
            if -signal.SIGKILL not in codes:
                assert codes == [0, 0], codes
                if kills == 0:  # through before the signal came: once more
                    shutil.rmtree(run_dir)
                    codes = None
                continue
            kills += 1
            alone += [code for code in codes if code != -signal.SIGKILL]
            assert not told or alone[-1] == -signal.SIGTERM, codes
        report(run_dir, kills, whole, 40, alone=alone, said=said(run_dir))


def kill_before_parts(folder):
    """One of two processes, of which each writes its part, as it would write that of step 4."""
    options = (*SHORT, "--parallel", "fsdp")
    _, whole = train_whole(folder, options, 8)
    for number, saves in enumerate(((), (), ("--blocking",), ("--blocking",))):
        run_dir, write, victim = folder / f"part-{number}", Checkpoints.write, number % RANKS

        def fall(rank, write=write, victim=victim):
            def die(store, step, *given, **more):
                if step == 4 and rank == victim:
                    os.kill(os.getpid(), signal.SIGKILL)
                return write(store, step, *given, **more)

            Checkpoints.write = die

        codes, told = end_ranks(start_ranks(run_dir, (*options, *saves), fall))
        assert (codes[victim], told) == (-signal.SIGKILL, False), (codes, told)
        assert end_ranks(start_ranks(run_dir, (*options, *saves))) == ([0, 0], False)
        alone = [codes[1 - victim]]
        report(run_dir, 1, whole, 8, alone=alone, said=said(run_dir))


def kill_between(folder):
    assert train(options_of([str(folder / "whole"), *SHORT])) == 0
    whole = outcome(folder / "whole", 8)
    number, killed = 0, True
    while killed:
        run_dir = folder / f"run-{number}"

        def count_down(left=number, where=str(run_dir)):
            state = {"left": left}

            def note(event, arguments):
                if event in EVENTS and str(arguments[0]).startswith(where):
                    if state["left"] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    state["left"] -= 1

            sys.addaudithook(note)

        killed = wait(start(run_dir, SHORT, count_down)) == -signal.SIGKILL
        assert not killed or wait(start(run_dir, SHORT)) == 0, number
        report(run_dir, int(killed), whole, 8)
        number += 1


def machine(folder, disk="disk"):
    """Let this process be on a machine with that disk."""

    def set_up():
        os.environ["XDG_CACHE_HOME"] = str(folder / disk)

    return set_up


def brought(folder, url):
    """What a bucket holds, on a disk; fetched by a forked child, as fsspec has threads."""
    if child := os.fork():
        assert wait(child) == 0
        return folder
    files, root = fsspec.core.url_to_fs(url)
    for name in files.find(root):
        here = folder / name.removeprefix(root).lstrip("/")
        here.parent.mkdir(parents=True, exist_ok=True)
        files.get_file(name, str(here))
    last = max((folder / "checkpoints").glob("step-*"))
    best = json.loads((last / "state.json").read_text())
    (folder / "checkpoints/best.json").write_text(json.dumps(best["state"]["best"]))
    os._exit(0)


def lose(folder):
    """Take the disk of a machine away."""
    shutil.rmtree(folder / "disk", ignore_errors=True)


def kill_in_buckets(folder, urls):
    for scheme in {url.partition(":")[0] for url in urls}:
        fsspec.get_filesystem_class(scheme)  # a second of imports
    train(options_of([str(folder / "warm-up"), *OPTIONS]))
    began = time.monotonic()
    assert wait(start(folder / "whole", FAR)) == 0
    lasts_s, whole = time.monotonic() - began, outcome(folder / "whole", 40)
    for number, url in enumerate(urls):
        draws, kills, code, tries = np.random.default_rng(number), 0, None, 0
        place = folder / f"run-{number}"
        place.mkdir()
        while code != 0:
            own = f"{url}-{tries}"
            child = start(place / "run", (*FAR, *BEAT), machine(place), own)
            if kills < 3:
                time.sleep(draws.uniform(lasts_s, 4 * lasts_s) / (1 + tries))
                os.kill(child, signal.SIGKILL)
                lose(place)
            code = wait(child)
            assert code in (0, -signal.SIGKILL), (code, (place / "run.err").read_text())
            kills += code != 0
            if code == 0 and kills == 0:  # through before the signal came: once more, and earlier
                tries, code = tries + 1, None
        report(brought(place / "found", own), kills, whole, 40)


def die_before(left):
    """Let this process die before its next change of a bucket but so many; its lease aside."""
    state = {"left": left}
    for name in ("write", "put", "remove"):
        before = getattr(Bucket, name)

        def change(self, *arguments, real=before):
            if threading.current_thread().name != "oct-xla-lease":
                if state["left"] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                state["left"] -= 1
            return real(self, *arguments)

        setattr(Bucket, name, change)


def kill_between_changes(folder, url):
    assert train(options_of([str(folder / "whole"), *SHORT])) == 0
    whole, number, killed = outcome(folder / "whole", 8), 0, True
    while killed:
        place, own = folder / f"run-{number}", f"{url}/{number}"
        place.mkdir()

        def count_down(left=number, place=place):
            machine(place)()
            die_before(left)

        options = (*SHORT, *BEAT)
        killed = wait(start(place / "run", options, count_down, own)) == -signal.SIGKILL
        lose(place)
        again = machine(place)
        assert not killed or wait(start(place / "run", options, again, own)) == 0, number
        report(brought(place / "found", own), int(killed), whole, 8)
        number += 1


def kill_apart(folder, url):
    fsspec.get_filesystem_class(url.partition(":")[0])
    options = ("--steps", "8", "--every", "4", "--evaluate-every", "8", "--parallel", "fsdp")
    _, whole = train_whole(folder, options, 8)
    for victim in range(RANKS):
        number, killed = 0, True
        while killed:
            place, own = folder / f"run-{victim}-{number}", f"{url}/{victim}-{number}"
            place.mkdir()

            def set_up(rank, place=place, left=number, doomed=victim):
                machine(place, f"disk/{rank}")()
                if rank == doomed:
                    die_before(left)

            def again(rank, place=place):
                machine(place, f"disk/{rank}")()

            begin = partial(start_ranks, place / "run", (*options, *BEAT), url=own)
            codes, told = end_ranks(begin(set_up))
            killed = codes[victim] == -signal.SIGKILL
            assert killed or codes == [0, 0], (codes, (place / "run.err").read_text())
            assert not told, codes
            lose(place)
            if killed:
                codes, _ = end_ranks(begin(again))
                assert codes == [0, 0], (number, (place / "run.err").read_text())
            found = brought(place / "found", own)
            last = sorted(one.name for one in (found / "checkpoints/step-00000008").iterdir())
            report(found, int(killed), whole, 8, victim=victim, files=last)
            number += 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "random":
        kill_at_random(folder, int(sys.argv[3]))
    elif what == "ranks":
        kill_ranks_at_random(folder, int(sys.argv[3]))
    elif what == "parts":
        kill_before_parts(folder)
    elif what == "apart":
        kill_apart(folder, sys.argv[3])
    elif what == "steps":
        kill_between_changes(folder, sys.argv[3])
    elif what == "bucket":
        kill_in_buckets(folder, sys.argv[3:])
    else:
        kill_between(folder)
