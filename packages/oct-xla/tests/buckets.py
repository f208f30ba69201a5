"""Real S3 and GCS APIs on this machine, and a proxy that can be told to be busy.

As a program it serves both APIs, on ports of the system's choice, until its standard input ends.
"""

import http.client
import json
import logging
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


@contextmanager
def serve():
    """Start both APIs in a process of their own; gives {"s3": port, "gs": port}."""
    with subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()
            process.terminate()


def options_of(scheme, port):
    """What fsspec has to know of a server."""
    options = {"endpoint_url": f"http://127.0.0.1:{port}"}
    return options | ({"key": "a", "secret": "b"} if scheme == "s3" else {"token": "anon"})


def environment_of(scheme, port):
    """The same for a program."""
    # Or gcsfs asks Google over gRPC what kind of bucket this is, at each call.
    return {
        f"FSSPEC_{scheme.upper()}": json.dumps(options_of(scheme, port)),
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }


class Proxy:
    """Stands in front of a server; answers 503 to as many requests as `busy` says."""

    def __init__(self, port):
        self.busy, self.told, self._port = 0, 0, port
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def ask(self, method, path, headers, body):
        if self.busy:
            self.busy, self.told = self.busy - 1, self.told + 1
            return 503, {"Content-Type": "application/xml"}, SLOW_DOWN
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(method, path, body, {**headers, "Connection": "close"})
            found = connection.getresponse()
            return found.status, dict(found.getheaders()), found.read()
        finally:
            connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Who asked is gone, as when a run is killed."""


def _handler(proxy):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, content = proxy.ask(self.command, self.path, dict(self.headers), body)
            self.send_response_only(status)
            head = self.command == "HEAD"
            length = headers.get("Content-Length", "0") if head else str(len(content))
            for name, value in headers.items():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(b"" if head else content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    return Handler


def main():
    from gcp_storage_emulator.server import create_server
    from moto.server import ThreadedMotoServer

    logging.disable(logging.CRITICAL)
    s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    gs = create_server("127.0.0.1", 0, in_memory=True, default_bucket="runs")
    gs.start()
    ports = {"s3": s3.get_host_and_port()[1], "gs": gs._api._httpd.server_port}
    connection = http.client.HTTPConnection("127.0.0.1", ports["s3"])
    connection.request("PUT", "/runs")
    assert connection.getresponse().status == 200
    print(json.dumps(ports), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
