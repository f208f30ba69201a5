"""Programs end, and nothing of them stays: whatever was killed, whatever does not answer."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest
from oct_io.phantom import PhantomTree, write_phantom_tree

LONG_S = 90  # for a program of a second or two, on a machine that is busy

CACHE = """
from oct_io import Window, build_cache, read_manifest
window = Window(name="test", extent_mm=(2.0, 0.15, 2.0), shape=(4, 16, 12))
build_cache(read_manifest(root), root, window, f"{new}/cache", jobs=2, progress=wait)
"""

HEADERS = """
from oct_io.catalog.headers import read_headers
from oct_io import read_manifest
list(read_headers(root, [read_manifest(root)[0]] * 2000, jobs=2, progress=wait))
"""

PHANTOM = """
from oct_io import PhantomTree, write_phantom_tree
write_phantom_tree(f"{new}/tree", PhantomTree(participants=40, scale=0.05, jobs=2), progress=wait)
"""

WAITING = """
import sys, time
root, new = sys.argv[1:]
def wait(*done):
    print("begun", flush=True)
    time.sleep(600)
"""

KILLING = """
import multiprocessing, sys
root, new = sys.argv[1:]
def wait(*done):
    for one in multiprocessing.active_children():
        one.kill()
"""

SILENT = """
import sys, threading, time
from oct_io import WINDOWS
from oct_io.cache.decoding import decode_in_order
from oct_io.catalog.headers import read_headers
from oct_io.records.record import ScanRecord
from oct_io.storage.buckets import StorageConfig, start_worker
start_worker(StorageConfig(endpoint_url=sys.argv[1], region="x"))  # as if it had answered before
records = [ScanRecord(path=f"{number}.dcm", participant_id="a") for number in range(20)]
print("begun", flush=True)
"""


HALF = """
import os, signal
from multiprocessing.connection import Connection
from oct_io.workers import Workers

def half(number):
    def send(self, content, write=os.write):
        os.write(self.fileno(), content[:50_000])  # of a million
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 1:
        Connection._send = send
    return bytes(1_000_000)

if __name__ == "__main__":
    workers = Workers(2, print)
    asked = [workers.begin(half, number) for number in range(4)]
    try:
        for one in asked:
            workers.answer(one)
    finally:
        workers.shutdown(cancel_futures=True)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("ends") / "tree"
    one = PhantomTree(participants=3, scale=0.05, jobs=1)
    write_phantom_tree(root, one)
    return root


@contextmanager
def program(code, *arguments):
    """Starts it, and leaves nothing of it."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                assert process.poll() is not None


@contextmanager
def silent_store():
    """A store that takes every connection, and never answers."""
    with socket.socket() as store:
        store.bind(("127.0.0.1", 0))
        store.listen(64)  # the system takes them for it
        yield f"http://127.0.0.1:{store.getsockname()[1]}"


@pytest.mark.parametrize(
    ("work", "number"),
    [
        pytest.param(CACHE, signal.SIGTERM, id="a cache, SIGTERM"),
        pytest.param(HEADERS, signal.SIGKILL, id="headers, killed"),
        pytest.param(PHANTOM, signal.SIGKILL, id="a phantom tree, killed"),
    ],
)
def test_processes_end_with_the_one_that_started_them(work, number, tree, tmp_path):
    with program(WAITING + work, tree, tmp_path) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        # Whoever is left holds the pipes, and a program that reads them waits for ever.
        process.communicate(timeout=LONG_S)
        assert process.returncode == -number


def test_who_waits_for_another_build_says_for_which_and_can_be_stopped(tree, tmp_path):
    with program(WAITING + CACHE, tree, tmp_path) as first:
        assert first.stdout.readline() == "begun\n"
        with program(WAITING + CACHE, tree, tmp_path) as second:
            said = second.stderr.readline()
            second.send_signal(signal.SIGINT)
            _, errors = second.communicate(timeout=LONG_S)
    assert said.startswith(f"oct-io: waiting for {tmp_path}/cache for 2 s (process {first.pid} is")
    assert errors.splitlines()[-1] == "KeyboardInterrupt"


def test_a_process_that_is_killed_while_it_draws_ends_the_tree_in_one_error(tree, tmp_path):
    with program(KILLING + PHANTOM, tree, tmp_path) as process:
        _, errors = process.communicate(timeout=LONG_S)
    assert "TreeError: a process that draws scans was killed" in errors.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_script_without_its_guard_ends_in_one_error(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"new = {str(tmp_path)!r}\nwait = None\n{PHANTOM}")
    code = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
    with program(code, script) as process:
        _, errors = process.communicate(timeout=LONG_S)
    assert "or did not start" in errors.splitlines()[-1]


def test_a_process_that_is_killed_in_the_middle_of_its_answer_holds_nobody(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(HALF)
    code = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
    with program(code, script) as process:
        _, errors = process.communicate(timeout=LONG_S)
    assert "BrokenProcessPool" in errors.splitlines()[-1]


def test_ctrl_c_ends_a_build_whose_store_does_not_answer():
    pytest.importorskip("s3fs")
    decoding = "list(decode_in_order(records, 's3://eyes', WINDOWS['tiny'], jobs=2))\n"
    with silent_store() as url, program(SILENT + decoding, url) as process:
        assert process.stdout.readline() == "begun\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(4)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=LONG_S)
    assert errors.splitlines()[-1] == "KeyboardInterrupt"


def test_headers_that_nobody_reads_any_more_hold_no_program_that_ends():
    pytest.importorskip("s3fs")
    asking = (
        "headers = read_headers('s3://eyes', records)\n"
        "threading.Thread(target=next, args=(headers,), daemon=True).start()\n"
        "time.sleep(2)\n"
    )
    with silent_store() as url, program(SILENT + asking, url) as process:
        _, errors = process.communicate(timeout=LONG_S)
    assert (process.returncode, errors) == (0, "")
