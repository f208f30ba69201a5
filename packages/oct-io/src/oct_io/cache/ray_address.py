"""Whether a Ray cluster answers at an address, found out within 30 s and said in one line.

Ray itself tries for one to five minutes, writes lines of its own meanwhile, and cannot be stopped.
So a process that can be is sent ahead.
"""

import socket
import subprocess
import sys

from oct_io.errors import TreeError
from oct_io.storage.buckets import redact

LISTEN_S = 5.0  # for a connection, to each of the addresses a name may have
ANSWER_S = 18.0  # to join; 3 to 6 s on a busy machine, most of it the import of Ray
JOIN = "import sys, ray; ray.init(sys.argv[1], logging_level='ERROR', log_to_driver=False)"
NO_TOKEN = (
    "the cluster wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or ~/.ray/auth_token "
    "to what the head has"
)


def check_address(address: str) -> None:
    """Make sure that a process of this machine can join the cluster at `address`.

    Args:
        address: "host:port" of the head, or "auto" for what `ray start` noted on this machine.

    Raises:
        TreeError: it cannot; the text says what was seen, within 30 s.
    """
    place = redact(address)
    if address.startswith("ray://"):  # Ray 2.60 ends in an AttributeError of its own
        raise TreeError(
            f"--ray {place}: Ray Data does not work through ray://; run this on a machine of the "
            "cluster and give host:port of its head, or auto"
        )
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), LISTEN_S).close()
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise TreeError(
                f"no Ray cluster at {place}: {reason.lower()}; `ray status` on the head says "
                "where it listens"
            ) from error
    elif address != "auto":
        raise TreeError(f"--ray {place}: neither host:port, nor auto, nor local")
    _join(address, place)


def _join(address: str, place: str) -> None:
    """Join and leave in a process of its own."""
    command = [sys.executable, "-c", JOIN, address]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S)
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode(errors="replace")
        reason = f"connected, and no answer for {ANSWER_S:.0f} s"
        raise TreeError(f"no Ray cluster at {place}: {_reason(said, reason)}") from error
    if asked.returncode:
        lines = asked.stderr.split("\n")
        last = next((line for line in reversed(lines) if "Error: " in line), "it refuses")
        reason = last.partition("Error: ")[2] or last
        raise TreeError(f"no Ray cluster at {place}: {_reason(asked.stderr, reason)}")


def _reason(said: str, otherwise: str) -> str:
    if "InvalidAuthToken" in said:
        return NO_TOKEN
    return " ".join(otherwise.split())[:200]
