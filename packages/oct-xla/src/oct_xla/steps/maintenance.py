"""Google's notice that a machine will be taken away, which is a request to stop like SIGTERM.

Its metadata server says so under `maintenance-event` and `preempted`. Of a maintenance it warns
60 s ahead, and only who has asked since the last one (cloud.google.com/compute/docs/metadata,
getting-live-migration-notice), so a run asks from its start on.
"""

import os
import threading
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

from oct_xla.folder.journal import say
from oct_xla.steps.preemption import StopRequest

EVERY_S = 5.0
_HOST = "metadata.google.internal"
_PRODUCT = Path("/sys/class/dmi/id/product_name")
_SIGNS = {"maintenance-event": "TERMINATE", "preempted": "TRUE"}
"""What a value begins with; a machine that is moved while it runs (MIGRATE) need not stop."""


def metadata_host() -> str:
    """Where the metadata server is; "" on other machines than Google's, where nobody is asked.

    `GCE_METADATA_HOST` is Google's own variable for another place.
    """
    if own := os.environ.get("GCE_METADATA_HOST", ""):
        return own
    try:
        product = _PRODUCT.read_text()
    except OSError:
        return ""
    return _HOST if product.startswith("Google") else ""


class Notice:
    """While it is entered, asks beside the training, and requests a stop where one is announced."""

    def __init__(self, stop: StopRequest) -> None:
        self._stop, self._over = stop, threading.Event()

    def __enter__(self) -> "Notice":
        if host := metadata_host():
            threading.Thread(target=self._listen, args=(host,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _listen(self, host: str) -> None:
        while not self._stop.requested:
            if found := _announced(host):
                say(f"this machine will be taken away ({found}); the run saves and stops")
                self._stop.requested = True
            if self._over.wait(EVERY_S):
                return


def _announced(host: str) -> str:
    """What is announced; "" for nothing, and where the server does not answer."""
    opener = build_opener(ProxyHandler({}))
    for key, sign in _SIGNS.items():
        url = f"http://{host}/computeMetadata/v1/instance/{key}"
        try:
            with opener.open(
                Request(url, headers={"Metadata-Flavor": "Google"}), timeout=3
            ) as told:
                value = told.read(100).decode("ascii", "replace").strip()
        except OSError:  # it is asked again, and the training does not depend on it
            continue
        if value.startswith(sign):
            return f"{key} {value}"
    return ""
