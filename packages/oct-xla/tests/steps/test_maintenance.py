"""A machine that will be taken away: its run saves and stops. A server of HTTP plays Google's."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from oct_xla import Checkpoints
from oct_xla.steps import maintenance
from oct_xla.steps.maintenance import Notice, metadata_host
from oct_xla.steps.preemption import StopRequest
from programs import finish, start

TERMINATE = {"maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"}


@pytest.fixture
def server(monkeypatch):
    """`server.says` may be changed; `server.asked` has the keys that were asked for."""

    class Metadata(BaseHTTPRequestHandler):
        def do_GET(self):
            key = self.path.removeprefix("/computeMetadata/v1/instance/")
            known = server.says.get(key)
            server.asked.append(key)
            allowed = self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if allowed and known else 403 if known else 404)
            self.end_headers()
            self.wfile.write((known or "").encode())

        def log_message(self, *_):
            """Nothing: stderr is what tests read."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    server.says, server.asked = {"maintenance-event": "NONE", "preempted": "FALSE"}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # not for a machine's own server
    yield server
    server.shutdown()
    server.server_close()


def wait_for(found, seconds=20):
    waited = threading.Event()
    for _ in range(seconds * 100):
        if found():
            return True
        waited.wait(0.01)
    return False


@pytest.mark.parametrize("sign", [TERMINATE, {"preempted": "TRUE"}])
def test_what_is_announced_is_a_request_to_stop_and_told_once(server, monkeypatch, capfd, sign):
    monkeypatch.setattr(maintenance, "EVERY_S", 0.01)
    stop = StopRequest()
    with Notice(stop):
        assert wait_for(lambda: len(server.asked) > 5)
        assert not stop.requested
        server.says |= sign
        assert wait_for(lambda: stop.requested)
    ((key, value),) = sign.items()
    line = f"this machine will be taken away ({key} {value}); the run saves and stops\n"
    assert capfd.readouterr().err == line


@pytest.mark.parametrize(
    "says",
    [{"maintenance-event": "MIGRATE_ON_HOST_MAINTENANCE", "preempted": "FALSE"}, {}],
    ids=["moved while it runs", "another server"],
)
def test_nothing_else_is_one(server, monkeypatch, says):
    monkeypatch.setattr(maintenance, "EVERY_S", 0.01)
    server.says = says
    with Notice(stop := StopRequest()):
        assert wait_for(lambda: len(server.asked) > 5)
    assert not stop.requested


def test_nobody_is_asked_on_other_machines(monkeypatch, tmp_path):
    monkeypatch.delenv("GCE_METADATA_HOST", raising=False)
    for text, host in (("Standard PC\n", ""), ("Google Compute Engine\n", maintenance._HOST)):
        (tmp_path / "name").write_text(text)
        monkeypatch.setattr(maintenance, "_PRODUCT", tmp_path / "name")
        assert metadata_host() == host
    monkeypatch.setattr(maintenance, "_PRODUCT", tmp_path / "none")
    assert metadata_host() == ""
    with Notice(StopRequest()):
        assert not [one for one in threading.enumerate() if "_listen" in one.name]


def test_a_run_saves_and_ends_with_143(server, tmp_path):
    server.says |= TERMINATE
    code, errors = finish(start(tmp_path, "--steps", 2000, "--every", 0, "--pause", 0.1))
    assert code == 143
    assert errors.splitlines() == [
        "this machine will be taken away (maintenance-event TERMINATE_ON_HOST_MAINTENANCE);"
        " the run saves and stops"
    ]
    assert len(Checkpoints(tmp_path / "checkpoints").steps()) == 1
