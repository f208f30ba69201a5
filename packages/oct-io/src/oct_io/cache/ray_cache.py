"""Making the parts of a cache on Ray Data: many processes, on one machine or on several.

Ray decides who works and repeats what a lost worker had begun. What counts as done is decided by
the parts alone (see `parts`), so that neither a killed worker nor a killed driver loses or doubles
a volume, and the cache has the bytes that one process would have given it.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from oct_io.cache.decoding import decode_in_order
from oct_io.cache.making import MakeParts, Seen
from oct_io.cache.parts import PartFolder, Plan, make_part
from oct_io.cache.ray_address import check_address
from oct_io.catalog.manifest import ScanRecord
from oct_io.errors import OctIoError, StoreError, TreeError
from oct_io.space.resample import Window
from oct_io.storage.buckets import StorageConfig, current_storage, redact, start_worker

LOCAL = "local"
SILENT_S = 60.0
STARTS = 3  # of Ray, which gives up after 30 s when a machine is busy

logger = logging.getLogger("oct_io.cache")


def on_ray(address: str = LOCAL, *, cpus: int = 0) -> MakeParts:
    """Get what `build_cache(make_parts=...)` needs to work on Ray.

    Args:
        address: of a running cluster, such as "host:6379", "ray://host:10001" or "auto"; "local"
            starts one on this machine that ends with this process.
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
    if address != LOCAL:
        check_address(address)  # before minutes go into listing the scans

    def make(plan: Plan, numbers: Sequence[int], seen: Seen) -> None:
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
    rows = [{"number": number, "task": _describe(plan, number)} for number in numbers]
    parts = ray.data.from_items(rows, override_num_blocks=len(rows))
    made = parts.map(_make_row, num_cpus=1)  # makes a part again for as often as its worker is lost
    try:
        for row in _aloud(made.iter_rows()):
            part = folder.read(int(row["number"]), plan.record_bytes)
            if part is None:
                raise TreeError("a worker wrote a part that is not seen here; share the folder")
            seen(len(part.entries) + len(part.refusals), part.refusals)
    except RayError as error:
        raise _in_our_words(error) from error
    finally:
        ray.shutdown()


def _aloud(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
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


def _in_our_words(error: Exception) -> TreeError:
    """What ended the work: a store out of reach, what else a worker says, or Ray itself."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, StoreError):
        return cause
    if isinstance(cause, OctIoError):
        reason = str(cause)
    elif isinstance(cause, Exception):
        reason = f"a worker failed ({type(cause).__name__}: {' '.join(str(cause).split())[:200]})"
    else:
        reason = f"Ray gave up ({type(error).__name__})"
    return TreeError(f"{reason}; the same command again goes on where it was")


def _connect(address: str, cpus: int) -> None:
    import ray

    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address == LOCAL:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read at the start; it would phone home
        os.environ.setdefault("RAY_worker_niceness", "0")  # 15 starves them on a shared machine
        options |= {"num_cpus": cpus or None, "include_dashboard": False}
        options["_node_ip_address"] = "127.0.0.1"
    else:
        check_address(address)
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


def _describe(plan: Plan, number: int) -> str:
    scans = plan.scans_of(number)
    task = {
        "plan": plan.name,
        "parts": plan.parts,
        "root": plan.root,
        "window": asdict(plan.window),
        "records": [asdict(record) for record in plan.records[scans]],
        "sources": plan.sources[scans],
        "record_bytes": plan.record_bytes,
        "storage": asdict(current_storage()),
    }
    return json.dumps(task)


def _make_row(row: dict[str, Any]) -> dict[str, Any]:
    """Make one part in a worker; a part that was begun before and came to nothing, with care."""
    number, task = int(row["number"]), json.loads(row["task"])
    start_worker(StorageConfig(**task["storage"]))
    folder = PartFolder(task["parts"])
    folder.check(task["plan"])
    if folder.read(number, task["record_bytes"]) is None:
        records = [_record(tree) for tree in task["records"]]
        window = Window(**task["window"])
        begun = folder.begin(number)
        outcomes = list(decode_in_order(records, task["root"], window, apart=begun))
        folder.write(number, *make_part(records, task["sources"], outcomes))
    return {"number": number}


def _record(tree: dict[str, Any]) -> ScanRecord:
    values: dict[str, Any] = {
        key: tuple(one) if isinstance(one, list) else one for key, one in tree.items()
    }
    return ScanRecord(**values)
