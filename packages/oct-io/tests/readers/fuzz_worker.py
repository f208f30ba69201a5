"""Answers one question a line with one JSON object; memory and CPU time are limited.

Started by fuzzing.py as a process of its own, so that whatever a damaged file does, it does here. A
line is a path of a scan, or what is asked, a tab, and the path of a tree or table.
"""

import json
import logging
import resource
import signal
import sys
import time
import warnings

SECONDS = 10  # of CPU, which do not pass while the machine does other work
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn")
STARTED = []  # what was started since the question was asked
SAID = []  # lines of the log since then


def too_slow(signum, frame):
    raise TimeoutError


class Lines(logging.Handler):
    """Keeps what is said."""

    def emit(self, record):
        SAID.append(record.getMessage())


def read_file(path):
    from oct_io import read_volume
    from oct_io.scan.flags import find_flags

    return find_flags(read_volume(path)).names


def read_tree(root):
    """Every record of a tree: what became of it."""
    from oct_io import WINDOWS, ScanError, read_manifest, resample
    from oct_io.records.opening import ANNOTATIONS, read_scan
    from oct_io.scan.flags import find_flags

    found = []
    for record in read_manifest(root):
        if record.refused is None:
            try:
                volume = read_scan(root, record, annotations=ANNOTATIONS)
                find_flags(volume)
                resample(volume, WINDOWS["tiny"])
            except ScanError as error:
                found.append(f"{error.stage}: {error.reason}")
            else:
                found.append("read")
        else:
            found.append(": ".join(record.refused))
    return found


def read_listed(path):
    from oct_io import read_manifest

    records = read_manifest(path.rpartition("/")[0], manifest=path)
    return [[record.path, record.member] for record in records]


def read_people(path):
    from oct_io.catalog.participants import LINE, read_participants

    return [int(row[LINE]) for row in read_participants(path).values()]


def read_classes(path):
    """Lines of people, whose classes and recommended split are taken as well."""
    from oct_io import load_labels, read_participants
    from oct_io.labels.splits import recommended_parts

    people = read_participants(path)
    load_labels(people, "study_group")
    load_labels(people, "note")
    recommended_parts(people)
    return read_people(path)


def read_labels(path):
    from oct_io import read_manifest
    from oct_io.catalog.participants import LINE
    from oct_io.labels.tables import finer_level, read_label_table

    level = finer_level(path)
    if level == "participant":
        return read_people(path)
    records = read_manifest(path.rpartition("/")[0])
    table, _ = read_label_table(path, level, records)
    return [int(row[LINE]) for row in table.rows.values()]


def read_clinical(folder):
    """Visits, and of each column the rows that were used and left out."""
    from oct_io.labels.omop import read_omop

    table = read_omop(folder)
    return [len(table.visits), sorted(table.rows), dict(table.rules)]


def read_parts(path):
    from oct_io.labels.splits import read_split

    return sum(map(len, read_split(path).parts.values()))


def read_wanted(path):
    from oct_io.labels.concepts import read_concepts

    return len(read_concepts(path))


QUESTIONS = {
    "file": read_file,
    "tree": read_tree,
    "manifest": read_listed,
    "participants": read_people,
    "classes": read_classes,
    "labels": read_labels,
    "clinical": read_clinical,
    "split": read_parts,
    "concepts": read_wanted,
}


def answer(question, path):
    """(outcome, reason, what was found)."""
    from oct_io.errors import OctIoError, ScanError

    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        found = QUESTIONS[question](path)
    except ScanError as error:
        return "memory" if "MemoryError" in error.reason else error.stage, error.reason, None
    except OctIoError as error:
        return "refused", str(error), None
    except MemoryError:
        return "memory", "", None
    except TimeoutError:
        return "hang", "", None
    except BaseException as error:
        return "leak", f"{type(error).__name__}: {error}", None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if "MemoryError" in str(found):
        return "memory", str(found), found
    return "read", " ".join(map(str, found)) if question == "file" else "", found


def main(cap_bytes, warm):
    warnings.simplefilter("ignore")
    logging.getLogger("oct_io").addHandler(Lines())
    for line in warm:  # loads every decoder, so that libraries do not count as allocations
        answer(*asked(line))
    sys.addaudithook(lambda event, _: STARTED.append(event) if event in STARTS else None)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + cap_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGPROF, too_slow)
    print("ready", flush=True)
    for line in sys.stdin:
        STARTED.clear()
        SAID.clear()
        start = time.process_time()
        outcome, reason, found = answer(*asked(line.rstrip("\n")))
        if STARTED:
            outcome, reason = "started", str(STARTED)
        told = {"outcome": outcome, "reason": reason, "found": found, "said": SAID}
        print(json.dumps(told | {"s": time.process_time() - start}), flush=True)


def asked(line):
    """What is asked, and of which path."""
    question, tab, path = line.partition("\t")
    return (question, path) if tab else ("file", line)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
