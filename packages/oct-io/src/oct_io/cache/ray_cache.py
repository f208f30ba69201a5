"""Making the parts of a cache on Ray Data: many processes, on one machine or on several.

Ray decides who works and repeats what a lost worker had begun. What counts as done is decided by
the parts alone (see `parts`), so that neither a killed worker nor a killed driver loses or doubles
a volume, and the cache has the bytes that one process would have given it.
"""

import json
import logging
import math
import os
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

from oct_io.cache.decoding import decode_in_order
from oct_io.cache.making import MakeParts, Seen
from oct_io.cache.parts import Part, PartFolder, Plan, make_part
from oct_io.cache.ray_address import check_address
from oct_io.catalog.manifest import ScanRecord
from oct_io.errors import OctIoError, StoreError, TreeError
from oct_io.space.resample import Window
from oct_io.storage.buckets import StorageConfig, current_storage, redact, start_worker

LOCAL = "local"
SILENT_S = 60.0
CHECKED_S = 60.0  # for which an address that answered is taken to answer
AT_ONCE = 4096
"""Parts that Ray is told of at a time: with their scans, some 30 MB. Between two such lots workers
wait for the last part of the first, so that a lot is many parts for each."""
STARTS = 3  # of Ray, which gives up after 30 s when a machine is busy

logger = logging.getLogger("oct_io.cache")


def on_ray(address: str = LOCAL, *, cpus: int = 0) -> MakeParts:
    """Get what `build_cache(make_parts=...)` needs to work on Ray.

    Args:
        address: of a running cluster, such as "host:6379" or "auto"; "local" starts one on this
            machine that ends with this process.
        cpus: processes of a local cluster; 0 for one a CPU.

    Raises:
        TreeError: Ray is not installed, or no cluster answers at `address`, within 30 s.
    """
    # Else Ray would see that `uv run` started this process, send the whole project to each worker
    # and start it with uv as well. Read when Ray is imported.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise TreeError("--ray needs Ray: install oct-io[ray]") from error
    checked = -math.inf
    if address != LOCAL:
        check_address(address)  # before minutes go into listing the scans
        checked = time.monotonic()

    def make(plan: Plan, numbers: Sequence[int], seen: Seen) -> None:
        if address != LOCAL and numbers and time.monotonic() - checked > CHECKED_S:
            check_address(address)  # since Ray itself tries for minutes
        if numbers:
            _run(plan, numbers, seen, address=address, cpus=cpus)

    return make


def _run(plan: Plan, numbers: Sequence[int], seen: Seen, *, address: str, cpus: int) -> None:
    import ray
    import ray.data
    from ray.exceptions import RayError

    _connect(address, cpus)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    folder = PartFolder(plan.parts)
    try:
        for rows in describe_parts(plan, numbers):
            parts = ray.data.from_items(rows, override_num_blocks=len(rows))
            made = parts.map(_make_row, num_cpus=1)  # again for as often as its worker is lost
            with closing(_aloud(made.iter_rows())) as answers:
                for answer in answers:
                    part = _read_part(plan, folder, answer)
                    seen(len(part.entries) + len(part.refusals), part.refusals)
    except RayError as error:
        reason = " ".join(str(error).split())[-200:]
        raise TreeError(
            f"Ray gave up ({type(error).__name__}: {reason}); the same command again goes on where "
            "it was"
        ) from error
    finally:
        ray.shutdown()


def _read_part(plan: Plan, folder: PartFolder, answer: dict[str, Any]) -> Part:
    """Read the part that a worker says it made.

    Raises:
        StoreError: it says that a store is out of reach.
        TreeError: it says something else, or its part is not seen here.
    """
    if answer["trouble"]:
        kind = StoreError if answer["store"] else TreeError
        raise kind(str(answer["trouble"]))
    part = folder.read(int(answer["number"]), plan.record_bytes)
    if part is None:
        raise TreeError("a worker wrote a part that is not seen here; share the folder")
    return part


def _aloud(rows: Iterable[dict[str, Any]]) -> Generator[dict[str, Any], None, None]:
    """Pass on what comes, and say so each time that nothing came for a minute."""
    heard, ended = threading.Event(), threading.Event()

    def listen() -> None:
        since = time.monotonic()
        while not ended.is_set():
            if heard.wait(SILENT_S):
                heard.clear()
                since = time.monotonic()
            else:
                logger.warning(
                    f"oct-io: no part came from Ray for {time.monotonic() - since:.0f} s; its "
                    "workers may wait for the store of the scans, or Ray for workers: `ray status` "
                    "on the head says how many CPUs it has and how many are asked for"
                )

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        for row in rows:
            heard.set()
            yield row
    finally:
        ended.set()
        heard.set()
        listener.join()


def _connect(address: str, cpus: int) -> None:
    import ray

    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address == LOCAL:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read at the start; it would phone home
        os.environ.setdefault("RAY_worker_niceness", "0")  # 15 starves them on a shared machine
        options |= {"num_cpus": cpus or None, "include_dashboard": False}
        options["_node_ip_address"] = "127.0.0.1"
    else:
        options["address"] = address
    for left in reversed(range(STARTS)):
        try:
            ray.init(**options)
            return
        except Exception as error:  # Ray raises Exception itself where one of its parts is late
            ray.shutdown()
            if left == 0:
                reason = " ".join(str(error).split())[:200]
                raise TreeError(f"Ray does not start at {redact(address)}: {reason}") from error


def describe_parts(plan: Plan, numbers: Sequence[int]) -> Iterator[list[dict[str, Any]]]:
    """Rows that a worker makes parts from, `AT_ONCE` at a time."""
    task = {
        "plan": plan.name,  # a hash over all scans: once, and not for each part
        "parts": plan.parts,
        "root": plan.root,
        "window": asdict(plan.window),
        "record_bytes": plan.record_bytes,
        "annotations": plan.annotations,
        "storage": asdict(current_storage()),
    }

    def describe(number: int) -> str:
        scans = plan.scans_of(number)
        records = [asdict(record) for record in plan.records[scans]]
        return json.dumps({**task, "records": records, "sources": plan.sources[scans]})

    for first in range(0, len(numbers), AT_ONCE):
        some = numbers[first : first + AT_ONCE]
        yield [{"number": number, "task": describe(number)} for number in some]


def _make_row(row: dict[str, Any]) -> dict[str, Any]:
    """Make one part in a worker, and tell what the driver is to raise; Ray would wrap an error."""
    number = int(row["number"])
    answer = {"number": number, "trouble": "", "store": False}
    try:
        _make_part(number, json.loads(row["task"]))
    except OctIoError as error:
        answer |= {"trouble": str(error), "store": isinstance(error, StoreError)}
    return answer


def _make_part(number: int, task: dict[str, Any]) -> None:
    """Make one part; one that was begun before and came to nothing, with care."""
    start_worker(StorageConfig(**task["storage"]))
    folder = PartFolder(task["parts"])
    folder.check(task["plan"])
    if folder.read(number, task["record_bytes"]) is None:
        records = [_record(tree) for tree in task["records"]]
        window = Window(**task["window"])
        begun = folder.begin(number)
        wanted = tuple(task["annotations"])
        decoded = decode_in_order(records, task["root"], window, apart=begun, annotations=wanted)
        outcomes = list(decoded)
        folder.write(number, *make_part(records, task["sources"], outcomes))


def _record(tree: dict[str, Any]) -> ScanRecord:
    values: dict[str, Any] = {
        key: tuple(one) if isinstance(one, list) else one for key, one in tree.items()
    }
    return ScanRecord(**values)
