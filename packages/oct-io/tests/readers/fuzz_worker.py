"""Reads one path a line, answers with one JSON object a line; memory and CPU time are limited.

Started by fuzzing.py as a process of its own, so that whatever a damaged file does, it does here.
"""

import json
import resource
import signal
import sys
import time
import warnings

SECONDS = 10  # of CPU, which do not pass while the machine does other work


def too_slow(signum, frame):
    raise TimeoutError


def answer(path, read_volume, find_flags, scan_error):
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        flags = find_flags(read_volume(path)).names
    except scan_error as error:
        kind = "memory" if "MemoryError" in error.reason else error.stage
        return kind, error.reason
    except MemoryError:
        return "memory", ""
    except TimeoutError:
        return "hang", ""
    except BaseException as error:
        return "leak", f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "read", " ".join(flags)


def main(cap_bytes, warm):
    from oct_io import ScanError, read_volume
    from oct_io.scan.flags import find_flags

    warnings.simplefilter("ignore")
    for path in warm:  # loads every decoder, so that libraries do not count as allocations
        find_flags(read_volume(path))
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + cap_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGPROF, too_slow)
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.process_time()
        outcome, reason = answer(line.rstrip("\n"), read_volume, find_flags, ScanError)
        found = {"outcome": outcome, "reason": reason, "s": time.process_time() - start}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
