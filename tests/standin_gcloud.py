"""Stands in for gcloud: pods whose workers are folders of this machine, in which commands do run.

The folder STANDIN holds pods.json, calls.jsonl with every call, and a home for each worker.
In orders.json `preempt_at` says at which ssh a pod is taken away, `deaf` how many ssh fail, and
`refuse` how many requests for a pod.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

PLACE = Path(os.environ["STANDIN"])
WORKERS = 2
FLAGS = {
    ("queued-resources", "create"): {
        "--node-id", "--node-count", "--node-prefix", "--accelerator-type", "--runtime-version",
        "--spot", "--zone", "--project", "--network",
    },
    ("queued-resources", "describe"): {"--format", "--zone", "--project"},
    ("queued-resources", "delete"): {"--force", "--quiet", "--async", "--zone", "--project"},
    ("tpu-vm", "describe"): {"--format", "--zone", "--project"},
    ("tpu-vm", "ssh"): {"--worker", "--command", "--zone", "--project"},
    ("tpu-vm", "scp"): {"--worker", "--zone", "--project"},
}  # fmt: skip


def load(name):
    path = PLACE / name
    return json.loads(path.read_text()) if path.exists() else {}


def save(name, content):
    (PLACE / name).write_text(json.dumps(content))


@contextmanager
def alone():
    """Calls of several processes change the files one after the other."""
    with (PLACE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def refuse(text):
    sys.stderr.write(f"ERROR: (gcloud.compute.tpus) {text}\n")
    sys.exit(1)


def homes(node):
    return [PLACE / node / f"worker-{number}" for number in range(WORKERS)]


def make_homes(node):
    for home in homes(node):
        (home / "bin").mkdir(parents=True)
        python = f"ln -sf {sys.executable} .venv/bin/python"
        uv = f'test "$1" = sync && mkdir -p .venv/bin && {python}; echo "$@" >> ~/uv-calls'
        for name, text in (("hostname", f"echo {node}-{home.name}"), ("uv", uv)):
            (home / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
            (home / "bin" / name).chmod(0o755)


def take_away(node):
    for home in homes(node):
        session = home / "oct-run/session"
        if session.exists():
            with suppress(ProcessLookupError):
                os.killpg(int(session.read_text()), signal.SIGKILL)
    shutil.rmtree(PLACE / node, ignore_errors=True)


def nodes(pod):
    return [f"{pod['prefix']}-{i}" for i in range(pod["count"])] if pod["count"] else [pod["node"]]


def request(verb, name, flags):
    pods = load("pods.json")
    if verb == "create":
        orders = load("orders.json")
        if orders.get("refuse"):
            save("orders.json", {**orders, "refuse": orders["refuse"] - 1})
            refuse("UNAVAILABLE")
        if name in pods:
            refuse("ALREADY_EXISTS")
        pods[name] = {
            "state": "WAITING_FOR_RESOURCES",
            "node": flags.get("--node-id", ""),
            "count": int(flags.get("--node-count", 0)),
            "prefix": flags.get("--node-prefix", ""),
        }
    elif name not in pods:
        refuse("NOT_FOUND")
    elif verb == "delete":
        for node in nodes(pods.pop(name)):
            take_away(node)
    else:
        pod = pods[name]
        spec = {"nodeId": pod["node"]}
        if pod["count"]:
            several = {"nodeCount": pod["count"], "nodeIdPrefix": pod["prefix"]}
            spec = {"multisliceParams": several}
        print(json.dumps({"state": {"state": pod["state"]}, "tpu": {"nodeSpec": [spec]}}))
        if pod["state"] == "WAITING_FOR_RESOURCES":  # served by the next look
            pod["state"] = "ACTIVE"
            for node in nodes(pod):
                make_homes(node)
    save("pods.json", pods)


def ssh(node, flags):
    with alone():
        orders, pods = load("orders.json"), load("pods.json")
        orders["ssh"] = orders.get("ssh", 0) + 1
        deaf, preempted = orders.get("deaf", 0), orders["ssh"] == orders.get("preempt_at")
        orders["deaf"] = max(deaf - 1, 0)
        save("orders.json", orders)
        if preempted:
            for pod in pods.values():
                pod["state"] = "SUSPENDED"
            save("pods.json", pods)
            take_away(node)
    if deaf or preempted or not (PLACE / node).exists():
        sys.stderr.write("ssh: connect to host 203.0.113.7 port 22: Connection timed out\n")
        sys.exit(255)
    every = homes(node)
    chosen = every if flags["--worker"] == "all" else [every[int(flags["--worker"])]]
    codes = []
    for home in chosen:
        sys.stderr.write("SSH: Attempting to connect to worker...\n")
        environment = {**os.environ, "HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}"}
        command = ["bash", "-c", flags["--command"]]
        codes.append(subprocess.run(command, env=environment, cwd=home).returncode)
    sys.exit(max(codes))


def main():
    with (PLACE / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(sys.argv[1:]) + "\n")
    group, area, kind, verb, *rest = sys.argv[1:]
    flags = dict(one.partition("=")[::2] for one in rest if one.startswith("--"))
    places = [one for one in rest if not one.startswith("--")]
    if (group, area) != ("compute", "tpus") or (kind, verb) not in FLAGS:
        refuse(f"Invalid choice: {verb}")
    if unknown := flags.keys() - FLAGS[kind, verb]:
        refuse(f"unrecognized arguments: {unknown}")
    if kind == "queued-resources":
        with alone():
            request(verb, places[0], flags)
    elif verb == "describe":
        print(json.dumps({"state": "READY", "networkEndpoints": [{}] * WORKERS}))
    elif verb == "scp":
        node, _, name = places[1].partition(":")
        for home in homes(node):
            shutil.copy(places[0], home / name)
    else:
        ssh(places[0], flags)


main()
