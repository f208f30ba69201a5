"""Real S3 and GCS APIs on this machine, and a proxy that counts, slows and spoils requests.

As a program it serves both APIs, on ports of the system's choice, until its standard input ends.
"""

import hashlib
import http.client
import json
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
FORBIDDEN = b"<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>"
MOVED = (
    b"<Error><Code>PermanentRedirect</Code><Message>The bucket you are attempting to access must "
    b"be addressed using the specified endpoint.</Message></Error>"
)
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
FAULTS = ("reset", "delay", "truncate", "shorten", "busy")
"""What passes, and an answer that never comes ("silent") with it; "forbid", "redirect" and
"circle" (to the same place) do not."""
SILENT_S = 600.0  # longer than anyone waits


places = {}
"""Addresses of the APIs by scheme, while they run."""


class Request(NamedTuple):
    """One request that went through a proxy."""

    method: str
    path: str
    span: str | None  # the Range header
    status: int
    size: int  # bytes of the answer's body
    fault: str | None


class Proxy:
    """An HTTP proxy in front of one server, on a port of the system's choice.

    Args:
        upstream: "host:port" of the server.
        faults: kinds of faults; `fraction` of the requests get one of them. Which request gets
            which depends on `seed`, the request and how often it was made, not on time or threads.
        delay_s: how long a "delay" takes.
        latency_s: added to each request.
        bytes_per_s: of the link, which all connections share; 0 for no limit.
    """

    def __init__(
        self,
        upstream,
        *,
        faults=(),
        fraction=0.2,
        seed=0,
        delay_s=3.0,
        latency_s=0.0,
        bytes_per_s=0,
    ):
        self.upstream, self.faults, self.fraction, self.seed = upstream, faults, fraction, seed
        self.delay_s, self.latency_s, self.bytes_per_s = delay_s, latency_s, bytes_per_s
        self.requests = []
        self.times = {}
        self.lock = threading.Lock()
        self.free_at = 0.0
        self.closed, self.shutting = threading.Event(), threading.Event()
        self.begun, self.limit = 0, None
        self.connections = set()
        self.server = self.failing = None
        self.port = 0
        self.open()
        self.url = f"http://127.0.0.1:{self.port}"

    def open(self):
        """Listen, on the same port as before."""
        self.limit = None
        self.shutting.clear()
        self.server = _Server(("127.0.0.1", self.port), _handler(self))
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def shut(self):
        """Close the port and all connections, so that who comes is refused."""
        self.shutting.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
        self.server = None
        for one in list(self.connections):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def fail_later(self, requests, seconds=None, once=lambda: True):
        """Close the port after so many more requests, for `seconds` or for good.

        What is asked beyond them waits until the port closes, which it does `once` something has
        come of those that were answered; so a busy machine changes nothing.
        """
        after = len(self.requests) + requests
        with self.lock:
            self.limit = self.begun + requests

        def run():
            while len(self.requests) < after or not once():
                if self.closed.wait(0.005):
                    return
            self.shut()
            if seconds is not None and not self.closed.wait(seconds):
                self.open()

        self.failing = threading.Thread(target=run, daemon=True)
        self.failing.start()

    def admit(self):
        """Whether a request is answered; one beyond the limit comes back when the port closes."""
        with self.lock:
            self.begun += 1
            beyond = self.limit is not None and self.begun > self.limit
        if beyond:
            self.shutting.wait(SILENT_S)
        return not beyond

    def gets(self, suffix=".dcm"):
        """Requests for the content of files."""
        return [one for one in self.requests if one.method == "GET" and one.path.endswith(suffix)]

    def clear(self):
        self.requests.clear()

    def close(self):
        self.closed.set()
        self.shutting.set()
        if self.failing is not None:
            self.failing.join()
        if self.server is not None:
            self.shut()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def fault_for(self, *request):
        with self.lock:
            time_asked = self.times[request] = self.times.get(request, 0) + 1
        if not self.faults:
            return None
        digest = hashlib.sha256(repr((self.seed, request, time_asked)).encode()).digest()
        if int.from_bytes(digest[:4]) >= self.fraction * 2**32:
            return None
        return self.faults[digest[4] % len(self.faults)]

    def wait_for_link(self, size):
        if not self.bytes_per_s:
            return
        with self.lock:
            self.free_at = max(self.free_at, time.monotonic()) + size / self.bytes_per_s
            wait_s = self.free_at - time.monotonic()
        time.sleep(max(0.0, wait_s))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), OSError):  # clients may hang up, we may not fail
            super().handle_error(request, client_address)


def _handler(proxy):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_):
            pass

        def setup(self):
            super().setup()
            proxy.connections.add(self.connection)

        def finish(self):
            proxy.connections.discard(self.connection)
            super().finish()

        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path, span = unquote(urlsplit(self.path).path), self.headers.get("Range")
            if not proxy.admit():
                self.close_connection = True
                return
            fault = proxy.fault_for(self.command, self.path, span)
            if fault == "silent":
                proxy.requests.append(Request(self.command, path, span, 0, 0, fault))
                proxy.closed.wait(SILENT_S)
                self.close_connection = True
                return
            status, headers, content = ask(self.command, self.path, dict(self.headers), body)
            if fault == "forbid":
                status, headers, content = 403, {"Content-Type": "application/xml"}, FORBIDDEN
            if fault in ("redirect", "circle"):
                status, content = 301, MOVED
                headers = {"Content-Type": "application/xml"}
                headers |= {"Location": proxy.url + self.path} if fault == "circle" else {}
            if fault == "busy":
                status, headers, content = 503, {"Content-Type": "application/xml"}, SLOW_DOWN
            announced = len(content)
            if self.command == "HEAD":
                announced, content = int(headers.get("Content-Length", 0)), b""
            if fault in ("truncate", "shorten"):
                content = content[: len(content) // 2]
            if fault == "shorten" and self.command != "HEAD":
                announced = len(content)  # only Content-Range still tells
            proxy.requests.append(Request(self.command, path, span, status, len(content), fault))
            time.sleep(proxy.latency_s + (proxy.delay_s if fault == "delay" else 0))
            if fault == "reset":
                content = content[: len(content) // 2]
            self.send(status, headers, announced, content)
            if fault == "reset":
                self.wfile.flush()
                linger = struct.pack("ii", 1, 0)  # close with RST instead of FIN
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            if fault in ("truncate", "reset"):
                self.close_connection = True

        def send(self, status, headers, announced, content):
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(announced))
            self.end_headers()
            for start in range(0, len(content), 1 << 16):
                part = content[start : start + (1 << 16)]
                proxy.wait_for_link(len(part))
                self.wfile.write(part)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    def ask(method, path, headers, body):
        connection = http.client.HTTPConnection(proxy.upstream, timeout=300)
        try:
            connection.request(method, path, body, {**headers, "Connection": "close"})
            found = connection.getresponse()
            return found.status, dict(found.getheaders()), found.read()
        finally:
            connection.close()

    return Handler


@contextmanager
def serve():
    """Start both APIs in a process of their own; gives {"s3": "host:port", "gs": "host:port"}."""
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()
            process.terminate()


def fill(scheme, contents):
    """Put {"bucket/path": bytes} into a store, past any proxy."""
    from oct_io.storage.buckets import StorageConfig, open_filesystem, using_storage

    place = f"http://{places[scheme]}"
    with using_storage(StorageConfig(endpoint_url=place, anonymous=scheme == "gs")):
        filesystem, _ = open_filesystem(f"{scheme}://")
        for bucket in {path.split("/")[0] for path in contents}:
            if not filesystem.exists(bucket):
                filesystem.mkdir(bucket)
        filesystem.pipe(contents, batch_size=4)


def main():
    from gcp_storage_emulator.server import create_server
    from moto.server import ThreadedMotoServer

    for name in ("werkzeug", "gcp_storage_emulator"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a line for each request otherwise
    s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    HTTPServer.request_queue_size = 256  # it answers one by one, and resets who cannot wait
    gcs = create_server("127.0.0.1", 0, in_memory=True, default_bucket="eyes")
    gcs.start()
    host, port = s3.get_host_and_port()
    places = {"s3": f"{host}:{port}", "gs": f"127.0.0.1:{gcs._api._httpd.server_port}"}
    print(json.dumps(places), flush=True)
    sys.stdin.read()
    os._exit(0)  # neither server ends at once when asked


if __name__ == "__main__":
    main()
