"""A TPU pod behind the gcloud of this machine: one queued resource, its slices, their workers.

Flags as in cloud.google.com/sdk/gcloud/reference/compute/tpus (queued-resources create, delete,
describe; tpu-vm ssh, scp, describe), states as in cloud.google.com/tpu/docs/queued-resources and in
the REST reference of nodes, all read in November 2026. None of it has met a real pod yet.
"""

import json
import shlex
import subprocess
from collections.abc import Sequence
from typing import Any

from workers import REPORT, Worker, read_report

EXIT_MISTAKE, EXIT_STOPPED = 2, 143
COMING = frozenset(
    ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "SUSPENDING", "DELETING")
)
GONE = frozenset(("SUSPENDED", "FAILED"))
"""Such a request is never served again; a new one must be made."""
NODES_GONE = frozenset(("PREEMPTED", "TERMINATED", "STOPPED", "DELETING"))


class Failure(Exception):
    """What ends a command; the text is one line that says what to do.

    Args:
        text: the line.
        code: exit code of the command.
    """

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


class Preempted(Failure):
    """A node was taken away."""


def nodes_of(pod: str, asked: Sequence[str]) -> list[str]:
    """The names that the nodes of a request get by its flags."""
    given = dict(one.split("=", 1) for one in asked if "=" in one)
    if "--node-count" not in given:
        return [given.get("--node-id", pod)]
    prefix = given.get("--node-prefix", pod)
    return [f"{prefix}-{number}" for number in range(int(given["--node-count"]))]


class Pod:
    """One queued resource and its nodes.

    Args:
        name: of the request, and of its node; several slices are NAME-0, NAME-1 and so on.
        where: --zone and --project, as far as they are given.
        dry: print commands instead of running them.
        asked: flags of the request, by which a dry run names the nodes; else gcloud tells them.
    """

    def __init__(
        self, name: str, where: Sequence[str], *, dry: bool, asked: Sequence[str] = ()
    ) -> None:
        self.name, self.where, self.dry = name, list(where), dry
        self._nodes = nodes_of(name, asked) if dry else []

    def gcloud(self, *arguments: str, shown: bool = False) -> str:
        """Run one command of gcloud and return what it says, or show it at once and return "".

        Raises:
            Failure: it ends with another code than 0; its own words are on stderr.
        """
        command = ["gcloud", "compute", "tpus", *arguments, *self.where]
        if self.dry:
            print(shlex.join(command))
            return ""
        try:
            done = subprocess.run(command, stdout=None if shown else subprocess.PIPE, text=True)
        except FileNotFoundError as error:
            raise Failure("gcloud is not on the PATH; install it and log in", 2) from error
        if done.returncode:
            name = " ".join(arguments[:3])
            raise Failure(f"gcloud {name}: exit code {done.returncode}; see its words above")
        return done.stdout or ""

    def create(self, asked: Sequence[str]) -> None:
        """Ask for a pod."""
        self.gcloud("queued-resources", "create", self.name, *asked)

    def delete(self, *, quiet: bool) -> None:
        """Give the pod back, nodes first."""
        also = ["--quiet"] if quiet else []
        self.gcloud("queued-resources", "delete", self.name, "--force", *also, shown=True)

    def _describe(self, kind: str, name: str) -> dict[str, Any]:
        said = self.gcloud(kind, "describe", name, "--format=json")
        found: dict[str, Any] = json.loads(said) if said else {}
        return found

    def state(self) -> str:
        """Where the request stands: ACTIVE, one of `COMING` or of `GONE`."""
        found = self._describe("queued-resources", self.name)
        return "ACTIVE" if self.dry else str(found.get("state", {}).get("state", "unknown"))

    @property
    def nodes(self) -> list[str]:
        """Names of the slices; asked for once."""
        if not self._nodes:
            (spec,) = self._describe("queued-resources", self.name)["tpu"]["nodeSpec"]
            several = spec.get("multisliceParams")
            prefix = several and several.get("nodeIdPrefix", self.name)
            self._nodes = (
                [f"{prefix}-{number}" for number in range(int(several["nodeCount"]))]
                if several
                else [str(spec["nodeId"])]
            )
        return self._nodes

    def on_all(self, command: str) -> str:
        """Run a command on all workers, at once on those of one slice."""
        return "".join(self.ssh(node, "all", command) for node in self.nodes)

    def ssh(self, node: str, worker: str, command: str, *, shown: bool = False) -> str:
        """Run a command on one worker of a slice, or on all."""
        asked = (f"--worker={worker}", f"--command={command}")
        return self.gcloud("tpu-vm", "ssh", node, *asked, shown=shown)

    def send(self, file: str, name: str) -> None:
        """Copy a file into the home of all workers."""
        for node in self.nodes:
            self.gcloud("tpu-vm", "scp", file, f"{node}:{name}", "--worker=all")

    def workers(self) -> list[Worker]:
        """What each worker says of itself.

        Raises:
            Preempted: a node was taken away.
            Failure: not all workers answer.
        """
        wanted = 0
        for node in self.nodes:
            found = self._describe("tpu-vm", node)
            if found.get("state") in NODES_GONE:
                raise Preempted(f"{node} is {found['state']}")
            wanted += len(found.get("networkEndpoints", []))
        workers = read_report(self.on_all(REPORT))
        if len(workers) != wanted:
            raise Failure(f"{len(workers)} of {wanted} workers answer; try again, see `status`")
        return workers
