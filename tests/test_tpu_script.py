"""scripts/tpu against a gcloud that is none, on workers that are folders of this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TRAINING = """
import pathlib, signal, sys, time
given = dict(one.split("=", 1) for one in sys.argv[1:])
def end(*_):
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print("begins with", *sys.argv[1:], flush=True)
if "code" in given:
    sys.exit(int(given["code"]))
steps = pathlib.Path(given["run_dir"]) / pathlib.Path.home().name
for step in range(steps.stat().st_size if steps.exists() else 0, int(given["steps"])):
    time.sleep(0.02)
    with steps.open("a") as file:
        file.write(".")
while "until" in given and not pathlib.Path(given["until"]).exists():
    time.sleep(0.02)
"""


def git(folder, *arguments):
    names = ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL")
    environment = {**os.environ, **{f"GIT_{name}": "test" for name in names}}
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


class Place:
    """A repository with a training of its own, a gcloud on the path, and scripts/tpu."""

    def __init__(self, folder):
        self.folder, self.source, self.bucket = folder, folder / "source", folder / "bucket"
        for one in (self.source / "apps/pretrain", folder / "bin", self.bucket):
            one.mkdir(parents=True)
        (self.source / "apps/pretrain/__main__.py").write_text(TRAINING)
        (self.source / ".gitignore").write_text(".venv/\n")
        git(self.source, "init", "-q")
        git(self.source, "add", ".")
        git(self.source, "commit", "-q", "-m", "Train")
        gcloud = folder / "bin/gcloud"
        program = f"exec {sys.executable} -S -E {ROOT / 'tests/standin_gcloud.py'}"
        gcloud.write_text(f'#!/bin/bash\n{program} "$@"\n')
        gcloud.chmod(0o755)
        self.environment = {
            **os.environ,
            "STANDIN": str(folder),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            **{f"GIT_COMMITTER_{name}": "test" for name in ("NAME", "EMAIL")},
            **{f"GIT_AUTHOR_{name}": "test" for name in ("NAME", "EMAIL")},
        }

    def command(self, command, *options):
        script = [sys.executable, str(ROOT / "scripts/tpu"), command, "pod"]
        own = ["--zone", "us-central2-b", "--source", str(self.source), "--every", "0.3"]
        return [*script, *own, *map(str, options)]

    def tpu(self, command, *options):
        return subprocess.run(
            self.command(command, *options),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def order(self, **orders):
        (self.folder / "orders.json").write_text(json.dumps(orders))

    @property
    def calls(self):
        path = self.folder / "calls.jsonl"
        return [json.loads(one) for one in path.read_text().splitlines()] if path.exists() else []

    def verbs(self):
        return [call[3] for call in self.calls]

    def steps(self):
        return [len(path.read_text()) for path in sorted(self.bucket.iterdir())]

    def home(self, worker):
        return self.folder / f"pod/worker-{worker}"

    def wait_for(self, told):
        until = time.monotonic() + 20
        while not told():
            assert time.monotonic() < until
            time.sleep(0.02)


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    yield made
    for session in tmp_path.glob("pod*/worker-*/oct-run/session"):
        try:
            os.killpg(int(session.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.fixture
def pod(place):
    assert place.tpu("create", "--spot").returncode == 0
    assert place.tpu("status").stdout.startswith("pod: WAITING_FOR_RESOURCES")
    return place


def test_a_dry_run_prints_every_command_and_runs_none(place):
    created = place.tpu("create", "--type", "v4-32", "--spot", "--dry-run")
    assert created.stdout == (
        "gcloud compute tpus queued-resources create pod --node-id=pod --accelerator-type=v4-32"
        " --runtime-version=tpu-ubuntu2204-base --spot --zone=us-central2-b\n"
    )
    kept = place.tpu("keep", "--dry-run", "--", "run_dir=gs://bucket/run")
    assert kept.returncode == 0, kept.stderr
    for part in ("bundle create", "tpu-vm scp", "setsid", "delete pod --force", "create pod"):
        assert part in kept.stdout
    assert "env PJRT_DEVICE=TPU .venv/bin/python" in kept.stdout
    other = place.tpu("start", "--dry-run", "--env", "XLA_PERSISTENT_CACHE_PATH=", "--")
    assert "env PJRT_DEVICE=TPU XLA_PERSISTENT_CACHE_PATH= .venv/bin/python" in other.stdout
    assert place.calls == []
    assert not (place.folder / "runs").exists()
    assert git(place.source, "for-each-ref", "refs/tpu") == ""


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ("sync", ["bundle create", "tpu-vm scp", "git checkout -q --force --detach"]),
        ("start", ["tpu-vm ssh pod --worker=all", "setsid", "apps/pretrain"]),
        ("status", ["queued-resources describe pod --format=json", "oct-worker $(hostname)"]),
        ("follow", ["tpu-vm ssh pod --worker=0", "tail -n 50 -F ~/oct-run/log"]),
        ("stop", ["tpu-vm ssh pod --worker=all", "kill -TERM -- -$session"]),
        ("delete", ["queued-resources delete pod --force --zone=us-central2-b"]),
    ],
)
def test_a_dry_run_of_each_command_prints_commands_alone(place, command, parts):
    outcome = place.tpu(command, "--dry-run")
    assert outcome.returncode == 0, outcome.stderr
    assert [part for part in parts if part not in outcome.stdout] == []
    told = outcome.stdout + outcome.stderr
    assert not any(one in told for one in ("ACTIVE", "on all workers", "started")), "nothing is so"
    assert place.calls == []
    assert git(place.source, "for-each-ref", "refs/tpu") == ""


def test_only_create_asks_for_a_pod(place):
    for command in ("sync", "start", "status", "follow", "stop"):
        assert place.tpu(command).returncode == 1
    kept = place.tpu("keep", "--", "run_dir=gs://bucket/run")
    assert kept.returncode == 1
    assert "create" not in place.verbs()


def test_all_workers_get_the_commit_and_what_it_needs(pod):
    outcome = pod.tpu("sync")
    assert outcome.returncode == 0, outcome.stderr
    commit = git(pod.source, "rev-parse", "HEAD")
    for worker in (0, 1):
        assert git(pod.home(worker) / "oct", "rev-parse", "HEAD") == commit
        assert "packages/oct-xla[tpu]" in (pod.home(worker) / "uv-calls").read_text()


def test_changes_that_are_not_committed_are_refused_or_sent_when_told(pod):
    changed = pod.source / "apps/pretrain/__main__.py"
    changed.write_text(TRAINING + "\n# changed")
    refused = pod.tpu("sync")
    assert refused.returncode == 2
    assert "1 files are not committed; commit, or add --dirty" in refused.stderr
    assert "scp" not in pod.verbs()
    assert pod.tpu("sync", "--dirty").returncode == 0
    assert (pod.home(1) / "oct/apps/pretrain/__main__.py").read_text() == changed.read_text()
    assert git(pod.source, "status", "--porcelain") != ""


def test_workers_of_different_commits_are_named_and_nothing_starts(pod):
    pod.tpu("sync")
    git(pod.home(1) / "oct", "commit", "-q", "--allow-empty", "-m", "Differ")
    first, second = (git(pod.home(worker) / "oct", "rev-parse", "HEAD") for worker in (0, 1))
    refused = pod.tpu("start", "--", "steps=1")
    assert refused.returncode == 2
    assert f"pod-worker-0 has {first}; pod-worker-1 has {second}" in refused.stderr
    (pod.home(0) / "oct/apps/pretrain/__main__.py").write_text("")
    (pod.home(1) / "oct/apps/pretrain/__main__.py").write_text("")
    git(pod.home(1) / "oct", "checkout", "-q", first)
    assert f"have {first}+changed" in pod.tpu("start", "--", "steps=1").stderr
    assert not (pod.home(0) / "oct-run").exists()


def test_a_training_outlives_ssh_is_followed_and_stops_by_sigterm(pod):
    pod.tpu("sync")
    given = ("steps=9999", f"run_dir={pod.bucket}")
    assert pod.tpu("start", "--env", "A=b c", "--", *given).returncode == 0
    pod.wait_for(lambda: len(pod.steps()) == 2)
    assert pod.tpu("status").stdout.count("training running") == 2
    assert "runs on pod-worker-0, pod-worker-1 already" in pod.tpu("start", "--", *given).stderr
    assert "`stop` it first" in pod.tpu("sync").stderr
    followed = subprocess.Popen(
        pod.command("follow"),
        env=pod.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert followed.stdout.readline() == f"begins with runtime=xla {' '.join(given)}\n"
    os.killpg(followed.pid, signal.SIGKILL)
    followed.communicate()
    assert pod.tpu("stop").returncode == 0
    assert pod.tpu("status").stdout.count("training ended:143,stopped") == 2


def test_a_preempted_pod_is_asked_for_again_and_the_training_goes_on(pod):
    pod.order(preempt_at=7, refuse=1)  # at the first look after the start
    outcome = pod.tpu("keep", "--", "steps=100", f"run_dir={pod.bucket}")
    assert outcome.returncode == 0, outcome.stderr
    made = [call for call in pod.calls if call[3] == "create"]
    assert len(made) == 3
    assert sorted(made[0]) == sorted(made[1]) == sorted(made[2])
    assert "pod is SUSPENDED: begins again" in outcome.stderr
    assert pod.steps() == [100, 100]


def test_a_worker_that_dies_alone_takes_the_others_along_and_all_begin_again(pod):
    given = ("steps=20", f"run_dir={pod.bucket}", f"until={pod.folder / 'seen'}")
    with subprocess.Popen(
        pod.command("keep", "--", *given),
        cwd=pod.folder,
        env=pod.environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as kept:
        pod.wait_for(lambda: len(pod.steps()) == 2)
        os.killpg(int((pod.home(1) / "oct-run/session").read_text()), signal.SIGKILL)
        told = next(line for line in kept.stderr if "begins again" in line)
        (pod.folder / "seen").touch()
        kept.communicate(timeout=60)
    assert told.startswith("the training is running, lost: begins again")
    assert kept.returncode == 0
    assert pod.steps() == [20, 20]


def test_an_ssh_that_fails_once_is_tried_again_and_one_that_always_does_ends_it(pod):
    pod.order(deaf=1)
    url = f"run_dir={pod.bucket}"
    outcome = pod.tpu("keep", "--", "steps=1", url)
    assert outcome.returncode == 0, outcome.stderr
    assert "exit code 255; see its words above; tried again" in outcome.stderr
    pod.order(deaf=99)
    assert pod.tpu("keep", "--", "steps=1", url).returncode == 1


def test_keep_ends_at_once_where_nobody_has_asked_for_the_pod(place):
    outcome = place.tpu("keep", "--", "steps=1", f"run_dir={place.bucket}")
    assert outcome.returncode == 1
    assert "NOT_FOUND" in outcome.stderr
    assert place.verbs() == ["describe"]


def test_a_mistake_is_not_tried_again(pod):
    url = f"run_dir={pod.bucket}"
    outcome = pod.tpu("keep", "--", "code=2", url)
    assert outcome.returncode == 2
    assert "the training ended with code 2" in outcome.stderr
    outcome = pod.tpu("keep", "--restarts", 1, "--", "code=1", url)
    assert outcome.returncode == 2
    assert "ended:1, ended:1, and --restarts is used up" in outcome.stderr


def test_keep_ends_when_somebody_stops_the_training(pod):
    url = f"run_dir={pod.bucket}"
    with subprocess.Popen(
        pod.command("keep", "--", "steps=9999", url),
        cwd=pod.folder,
        env=pod.environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as kept:
        pod.wait_for(lambda: len(pod.steps()) == 2)
        assert pod.tpu("stop").returncode == 0
        _, errors = kept.communicate(timeout=60)
    assert kept.returncode == 143
    assert "error: the training was stopped" in errors


def test_keep_wants_checkpoints_that_outlive_the_pod(pod):
    refused = pod.tpu("keep", "--", "experiment=multi_domain")
    assert refused.returncode == 2
    assert "keep needs run_dir=gs://" in refused.stderr


def test_several_slices_are_one_training(place):
    assert place.tpu("create", "--slices", 2).returncode == 0
    place.tpu("status")
    url = f"run_dir={place.bucket}"
    assert place.tpu("keep", "--", "steps=3", url).returncode == 0
    assert place.tpu("status").stdout.count("training ended:0") == 4


def test_a_dry_run_names_the_nodes_of_several_slices(place):
    def nodes(*options):
        said = place.tpu("stop", "--dry-run", *options).stdout
        return [line.split()[5] for line in said.splitlines() if "tpu-vm ssh" in line]

    assert nodes() == ["pod"]
    assert nodes("--slices", 3) == ["pod-0", "pod-1", "pod-2"]
    assert place.tpu("create", "--slices", 2).returncode == 0
    assert nodes() == ["pod-0", "pod-1"]  # as it was asked for
    kept = place.tpu("keep", "--dry-run", "--", "run_dir=gs://bucket/run")
    assert kept.returncode == 0, kept.stderr
    assert "tpu-vm describe pod-1 " in kept.stdout
    assert "ssh pod --worker" not in kept.stdout


def test_delete_gives_the_pod_back(pod):
    assert pod.tpu("delete", "--yes").returncode == 0
    assert pod.calls[-1][3:6] == ["delete", "pod", "--force"]
    assert pod.tpu("status").returncode == 1
