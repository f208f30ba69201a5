"""Kills runs at each request that changes a bucket, one run a request, and takes their disks away.

python cut.py FOLDER SCHEME PORT     of a server that buckets.py has started

The checkpoints are so large that they go up in parts. Prints lines as killed.py does, with the
request that was the last one.
"""

import os
import shutil
import signal
import sys
import threading
from itertools import count
from pathlib import Path

import fsspec
import torch
from buckets import Proxy, environment_of
from killed import BEAT, brought, lose, machine, outcome, report, start, wait
from toy import options_of, train

WIDE = "200000"  # a checkpoint of 41 MB, three parts
LARGE = ("--steps", "4", "--every", "2", "--evaluate-every", "2", "--width", WIDE)
CHANGES = ("PUT", "POST", "DELETE")
LEASE = ".writer.json"  # renewed all the time


class Cut(Proxy):
    """Kills who changes the bucket, with a request that the server hears of, or does not.

    Args:
        port: of the server.
        last: number of the request, from 1.
        heard: whether the server hears of it.
    """

    def __init__(self, port, last, *, heard):
        super().__init__(port)
        self.last, self.heard, self.seen = last, heard, []
        self.victim, self._lock = 0, threading.Lock()

    def ask(self, method, path, headers, body):
        named = LEASE in path or LEASE.encode() in body[:1000]
        if method not in CHANGES or named:
            return super().ask(method, path, headers, body)
        with self._lock:
            self.seen.append(f"{method} {path}")
            falls = len(self.seen) == self.last
        if falls and not self.heard:
            os.kill(self.victim, signal.SIGKILL)
            return 503, {}, b""
        answer = super().ask(method, path, headers, body)
        if falls:
            os.kill(self.victim, signal.SIGKILL)
        return answer


def run(place, url, proxy, scheme):
    """Train on a machine whose way to the bucket is the proxy; returns how it ended."""

    def set_up():
        machine(place)()
        os.environ |= environment_of(scheme, proxy.port)
        fsspec.config.set_conf_env(fsspec.config.conf)

    proxy.victim = start(place / "run", (*LARGE, *BEAT), set_up, url)
    return wait(proxy.victim)


def main(folder, scheme, port):
    os.environ |= environment_of(scheme, port)
    fsspec.config.set_conf_env(fsspec.config.conf)
    fsspec.get_filesystem_class(scheme)  # a second of imports
    assert train(options_of([str(folder / "whole"), *LARGE])) == 0
    whole = outcome(folder / "whole", 4)
    for heard in (False, True):
        for last in count(1):
            name = f"{'heard' if heard else 'unheard'}-{last}"
            place, url = folder / name, f"{scheme}://runs/cut/{name}"
            place.mkdir()
            cut = Cut(port, last, heard=heard)
            killed = run(place, url, cut, scheme) == -signal.SIGKILL
            cut.close()
            lose(place)
            if not killed:
                assert len(cut.seen) < last, cut.seen
                break
            again = Cut(port, 0, heard=True)
            assert run(place, url, again, scheme) == 0, (place / "run.err").read_text()
            again.close()
            report(brought(place / "found", url), 1, whole, 4, request=cut.seen[-1])
            shutil.rmtree(place)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
