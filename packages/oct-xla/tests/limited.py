"""Runs the toy in forked children that may take little memory, to spare the import of torch.

python limited.py FOLDER KIND ROOM_MB...     limit KIND (DATA or AS), one run for each room

Prints the exit codes of a run without a limit and of the others; run N writes to FOLDER/N and what
it says to FOLDER/N.err. A run that ends with 75 is started again, as a launcher would.
"""

import os
import sys
from pathlib import Path

import torch
import torch._dynamo  # which an optimiser imports, in seconds
from toy import options_of, train

OPTIONS = ("--hungry", "--steps", "3", "--every", "1")


def wait(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(folder, *options):
    codes = [75]
    while codes[-1] == 75:
        child = os.fork()
        if not child:
            sys.stderr = folder.with_suffix(".err").open("a")
            code = train(options_of([str(folder), *OPTIONS, *options]))
            sys.stderr.flush()
            os._exit(code)
        codes.append(wait(child))
    return codes[1:]


if __name__ == "__main__":
    torch.set_num_threads(1)
    where, kind = Path(sys.argv[1]), sys.argv[2]
    print(run(where / "whole"))
    for room_mb in sys.argv[3:]:
        print(run(where / room_mb, "--limit", kind, "--limit-mb", room_mb), flush=True)
