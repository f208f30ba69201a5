"""Trains on a Cloud TPU pod: one commit on all workers, and on from a checkpoint if it goes away.

python3 scripts/tpu create POD --type v4-32 --spot   asks for a pod, which costs money from now on
python3 scripts/tpu sync POD                         brings HEAD, and what it needs, to all workers
python3 scripts/tpu start POD -- experiment=...      starts apps/pretrain, if all have one commit
python3 scripts/tpu follow POD                       the log of worker 0; --worker all for all
python3 scripts/tpu keep POD -- experiment=...       sync, start, and again after each preemption
python3 scripts/tpu status POD                       the pod, its commits and its trainings
python3 scripts/tpu stop POD                         SIGTERM to the training, which saves; pod stays
python3 scripts/tpu delete POD                       gives the pod back

Only `create`, and `keep` for a pod that `create` has asked for, ask for machines. `--dry-run`
prints every command and runs none. It needs python3, git and a gcloud that is logged in.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from keeping import keep_running
from pod import EXIT_MISTAKE, Failure, Pod
from workers import INSTALL, NAMED, SENT, START, STOP, TAIL, Worker

REPOSITORY = Path(__file__).resolve().parent.parent.parent
RECORDS = Path("runs/tpu")
"""What `create` asked for, so that `keep` can ask for the same again."""
ENVIRONMENT = ("PJRT_DEVICE=TPU",)
"""Of the training, before what --env says."""


def create(pod: Pod, options: argparse.Namespace) -> None:
    """Ask for a pod, and keep what was asked for."""
    asked = [
        *name_nodes(options),
        f"--accelerator-type={options.type}",
        f"--runtime-version={options.runtime_version}",
        *(["--spot"] if options.spot else []),
        *options.also,
    ]
    pod.create(asked)
    if not pod.dry:
        RECORDS.mkdir(parents=True, exist_ok=True)
        (RECORDS / f"{pod.name}.json").write_text(json.dumps(asked) + "\n")
        print(f"asked for {pod.name}; it costs money from ACTIVE until `delete`")


def name_nodes(options: argparse.Namespace) -> list[str]:
    """Flags that say what the nodes of a request are called."""
    several = [f"--node-count={options.slices}", f"--node-prefix={options.pod}"]
    return several if options.slices > 1 else [f"--node-id={options.pod}"]


def asked_before(options: argparse.Namespace) -> list[str]:
    """Flags that `create` has asked with; before it, those that name the nodes of --slices."""
    record = RECORDS / f"{options.pod}.json"
    return json.loads(record.read_text()) if record.exists() else name_nodes(options)


def sync(pod: Pod, options: argparse.Namespace) -> None:
    """Bring one commit to all workers, and install what it needs.

    Raises:
        Failure: changes are not committed, or a training runs on the code that would change.
    """
    send_commit(pod, options, commit_of(options))


def send_commit(pod: Pod, options: argparse.Namespace, commit: str) -> None:
    """Bring this commit to all workers; see `sync`."""
    if busy := [one.host for one in pod.workers() if one.running]:
        raise Failure(f"a training runs on {', '.join(busy)}; `stop` it first", EXIT_MISTAKE)
    with tempfile.TemporaryDirectory() as folder:
        bundle = f"{folder}/oct.bundle"
        for command in (("update-ref", SENT, commit), ("bundle", "create", "-q", bundle, SENT)):
            git(options.source, *command, dry=pod.dry)
        pod.send(bundle, "oct.bundle")
    pod.on_all(INSTALL.format(sent=SENT, commit=commit))
    if not pod.dry:
        print(f"{commit[:12]} is on all workers", file=sys.stderr)


def commit_of(options: argparse.Namespace) -> str:
    """HEAD; with --dirty a commit, on no branch, of the changes in files that git knows.

    Raises:
        Failure: changes are not committed, and --dirty is not given.
    """
    changed = git(options.source, "status", "--porcelain")
    if changed and not options.dirty:
        count = len(changed.splitlines())
        raise Failure(f"{count} files are not committed; commit, or add --dirty", EXIT_MISTAKE)
    stashed = git(options.source, "stash", "create") if changed else ""
    return stashed or git(options.source, "rev-parse", "HEAD")


def git(source: Path, *arguments: str, dry: bool = False) -> str:
    """Run git in the repository `source`; returns what it says.

    Raises:
        Failure: it refuses.
    """
    command = ["git", "-C", str(source), *arguments]
    if dry:
        print(shlex.join(command))
        return ""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"git {arguments[0]}: {' '.join(done.stderr.split())}")
    return done.stdout.strip()


def check_equal(workers: Sequence[Worker]) -> None:
    """Refuse workers that differ, or whose files differ from their commit.

    Raises:
        Failure: names the commits, and a worker of each.
    """
    commits = {one.commit: one.host for one in workers}
    if len(commits) > 1:
        shown = "; ".join(f"{host} has {commit}" for commit, host in commits.items())
        raise Failure(f"workers differ in commit: {shown}; run `sync`", EXIT_MISTAKE)
    for commit, host in commits.items():
        if not commit.isalnum() or commit == "none":
            raise Failure(f"{host} and all others have {commit}; run `sync`", EXIT_MISTAKE)


def start(pod: Pod, options: argparse.Namespace) -> None:
    """Start apps/pretrain on all workers, in a session that outlives ssh.

    Raises:
        Failure: workers differ in commit, or a training runs already.
    """
    workers = pod.workers()
    check_equal(workers)
    if busy := [one.host for one in workers if one.running]:
        raise Failure(f"a training runs on {', '.join(busy)} already", EXIT_MISTAKE)
    environment = shlex.join([*ENVIRONMENT, *options.env])
    arguments = shlex.join(["runtime=xla", *options.arguments])
    pod.on_all(START.format(environment=environment, arguments=arguments))
    if not pod.dry:
        print(f"started; to see it: python3 scripts/tpu follow {pod.name}", file=sys.stderr)


def follow(pod: Pod, options: argparse.Namespace) -> None:
    """Show the log as it grows, until Ctrl-C; the training goes on."""
    command = TAIL.format(lines=options.lines) + (NAMED if options.worker == "all" else "")
    pod.ssh(pod.nodes[options.slice], options.worker, command, shown=True)


def stop(pod: Pod, options: argparse.Namespace) -> None:
    """Have the training save and end on all workers; a `keep` elsewhere then ends too."""
    pod.on_all(STOP.format(patience=options.patience, mark="touch ~/oct-run/stopped"))


def status(pod: Pod, options: argparse.Namespace) -> None:
    """Print where the request stands, and what each worker says."""
    del options
    state = pod.state()
    if not pod.dry:  # which has asked nobody
        print(f"{pod.name}: {state}")
    for one in pod.workers() if state == "ACTIVE" else []:
        print(f"{one.host}: commit {one.commit}, training {one.run}")


def delete(pod: Pod, options: argparse.Namespace) -> None:
    """Give the pod back; gcloud asks first, unless --yes is given."""
    pod.delete(quiet=options.yes)


def keep(pod: Pod, options: argparse.Namespace) -> None:
    """Train to the end: start, look every now and then, and start again whatever takes it away.

    Raises:
        Failure: the training cannot go on without you.
    """
    if not any(re.match(r"run_dir=(/|\w+://)", one) for one in options.arguments):
        raise Failure(
            "keep needs run_dir=gs://..., or run_dir=/... on a disk that all workers share: what"
            " lies on a pod goes with it",
            EXIT_MISTAKE,
        )
    commit = commit_of(options)  # once: a restart trains what was started, whatever HEAD is then

    def begin() -> None:
        # Workers that are left wait for those that went, and would hold the TPU.
        pod.on_all(STOP.format(patience=options.patience, mark=":"))
        send_commit(pod, options, commit)
        start(pod, options)

    record = RECORDS / f"{pod.name}.json"
    keep_running(pod, record, commit, begin, restarts=options.restarts, every_s=options.every)


COMMANDS: dict[str, Callable[[Pod, argparse.Namespace], None]] = {
    one.__name__: one for one in (create, sync, start, follow, keep, status, stop, delete)
}


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; what follows `--` is for apps/pretrain."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        "tpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("command", choices=COMMANDS, metavar="COMMAND")
    add("pod", metavar="POD", help="name of the queued resource")
    add("--zone", default="", help="default: that of gcloud config")
    add("--project", default="", help="default: that of gcloud config")
    add("--dry-run", action="store_true", help="print commands, run none")
    add("--type", default="v4-32", help="create: accelerator type")
    add("--runtime-version", default="tpu-ubuntu2204-base", help="create: see docs/tpu.md")
    add("--spot", action="store_true", help="create: cheap, may be taken away at any time")
    add("--slices", type=int, default=1, help="create, or a dry run before it: slices")
    add("--also", action="append", default=[], help="create: a further flag for gcloud")
    add("--source", type=Path, default=REPOSITORY, help="sync, keep: repository")
    add("--dirty", action="store_true", help="sync, keep: with changes of files that git knows")
    add("--env", action="append", default=[], help="start, keep: NAME=VALUE; no secrets")
    add("--worker", default="0", help="follow: a number, or all")
    add("--slice", type=int, default=0, help="follow: which slice")
    add("--lines", type=int, default=50, help="follow: lines to begin with")
    add("--every", type=float, default=60.0, help="keep: seconds between two looks")
    add("--restarts", type=int, default=20, help="keep: at the most")
    add("--patience", type=int, default=300, help="stop, keep: seconds to save in")
    add("--yes", action="store_true", help="delete: without a question")
    options = parser.parse_args(arguments[:cut])
    options.arguments = list(arguments[cut + 1 :])
    if options.arguments and options.command not in ("start", "keep"):
        parser.error(f"what follows -- is for start and keep, not for {options.command}")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    options = read_options(arguments)
    given = {"--zone": options.zone, "--project": options.project}
    where = [f"{flag}={value}" for flag, value in given.items() if value]
    try:
        asked = asked_before(options) if options.dry_run else []
        pod = Pod(options.pod, where, dry=options.dry_run, asked=asked)
        COMMANDS[options.command](pod, options)
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return failure.code
    except KeyboardInterrupt:
        return 130
    return 0
