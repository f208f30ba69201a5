"""The files for Slurm, SkyPilot and Ray: the signal before a time limit, and keys that exist."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import metadata, version
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
TIME_LIMIT = 600
SCRIPT = ROOT / "scripts/slurm/pretrain.sbatch"
SRUN = """#!/bin/bash
trap 'kill -TERM $(jobs -p)' TERM
for ((i = 0; i < SLURM_NTASKS; i++)); do SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & tasks[i]=$!; done
worst=0
for task in "${tasks[@]}"; do
  wait "$task"; while kill -0 "$task" 2>/dev/null; do wait "$task"; done
  wait "$task"; code=$?; ((code > worst)) && worst=$code
done
exit "$worst"
"""
SCONTROL = """#!/bin/bash
if [ "$1 $2" = "show hostnames" ]; then echo localhost; else echo "$@" >> "$SAID"; fi
"""
# The program is that of the tests of oct-xla: the real loop, with an objective that takes no time.
PROGRAM = f"""
import runpy, sys
sys.path.insert(0, {str(ROOT / "packages/oct-xla/tests")!r})
runpy.run_path({str(ROOT / "packages/oct-xla/tests/toy.py")!r}, run_name="__main__")
"""
SKY_TASK = {
    "name", "workdir", "num_nodes", "resources", "envs", "secrets", "file_mounts", "setup", "run",
    "config",
}  # fmt: skip
SKY_RESOURCES = {
    "infra", "accelerators", "accelerator_args", "cpus", "memory", "instance_type", "use_spot",
    "disk_size", "disk_tier", "network_tier", "image_id", "ports", "labels", "autostop", "any_of",
    "ordered", "job_recovery",
}  # fmt: skip
SKY_RECOVERY = {"strategy", "max_restarts_on_errors"}
"""Keys of docs/source/reference/yaml-spec.rst in skypilot-org/skypilot, commit 0048bbf6."""


@pytest.fixture
def slurm(tmp_path):
    """A folder with apps/pretrain, and the environment of a job of two tasks."""
    for name, text in (("bin/srun", SRUN), ("bin/scontrol", SCONTROL)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "apps/pretrain").mkdir(parents=True)
    (tmp_path / "apps/pretrain/__main__.py").write_text(PROGRAM)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "OCT_PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        "SAID": str(tmp_path / "said"),
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
    }

    def start(*arguments, **more):
        command = ["bash", str(SCRIPT), *arguments]
        return subprocess.Popen(command, env={**environment, **more}, stderr=subprocess.PIPE)

    start.folder = tmp_path
    return start


@pytest.mark.drill
def test_a_job_saves_before_its_limit_is_queued_again_and_goes_on(slurm):
    run_dir, said = slurm.folder / "run-3", slurm.folder / "said"
    given = ("run-{task}", "--steps", "120", "--every", "1000", "--pause", "0.01")
    job = slurm(*given, SLURM_ARRAY_TASK_ID="3")
    rows = run_dir / "metrics.jsonl"
    while not rows.exists() or rows.read_text().count("\n") < 3:
        assert job.poll() is None, job.stderr.read()
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    _, errors = job.communicate(timeout=TIME_LIMIT)
    assert job.returncode == 143, errors
    assert said.read_text() == f"requeue {os.getpid()}\n"
    reached = len(rows.read_text().splitlines())
    assert 3 <= reached < 120
    again = slurm(*given, SLURM_ARRAY_TASK_ID="3")
    _, errors = again.communicate(timeout=TIME_LIMIT)
    assert again.returncode == 0, errors
    steps = [json.loads(line)["step"] for line in rows.read_text().splitlines()]
    assert steps == list(range(1, 121))
    assert said.read_text().count("requeue") == 1


def test_a_job_that_fails_is_not_queued_again(slurm):
    (slurm.folder / "apps/pretrain/__main__.py").write_text("import sys; sys.exit(2)")
    job = slurm("anything")
    job.communicate(timeout=TIME_LIMIT)
    assert job.returncode == 2
    assert not (slurm.folder / "said").exists()


def test_a_job_that_ran_out_of_memory_and_takes_less_next_time_is_queued_again(slurm):
    (slurm.folder / "apps/pretrain/__main__.py").write_text(
        "import os, sys; sys.exit(75 if os.environ['RANK'] == '1' else 2)"
    )
    job = slurm("anything")
    job.communicate(timeout=TIME_LIMIT)
    assert job.returncode == 75
    assert (slurm.folder / "said").read_text() == f"requeue {os.getpid()}\n"


def test_the_signal_of_slurm_reaches_the_shell_alone_and_early():
    (given,) = re.findall(r"^#SBATCH --signal=(.*)$", SCRIPT.read_text(), re.MULTILINE)
    target, number, seconds = re.fullmatch(r"(B):(\w+)@(\d+)", given).groups()
    assert (target, number) == ("B", "USR1")  # to the training it would mean: show your stacks
    assert int(seconds) >= 300


def test_skypilot_is_told_nothing_that_it_does_not_know():
    task = yaml.safe_load((ROOT / "scripts/sky/pretrain.yaml").read_text())
    assert task.keys() <= SKY_TASK
    assert task["resources"].keys() <= SKY_RESOURCES
    assert task["resources"]["job_recovery"].keys() <= SKY_RECOVERY
    used = set(re.findall(r"\$(\w+)", task["run"])) - {"master"}
    sky = {"NODE_IPS", "NUM_NODES", "NODE_RANK", "NUM_GPUS_PER_NODE"}
    assert used == task["envs"].keys() | {f"SKYPILOT_{name}" for name in sky}
    for script in (task["setup"], task["run"]):
        assert subprocess.run(["bash", "-n", "-c", script]).returncode == 0


def test_rays_launcher_is_told_nothing_that_its_schema_does_not_know():
    if (ray := find_spec("ray")) is None:
        pytest.skip("ray is not installed; it has wheels for some machines only")
    cluster = yaml.safe_load((ROOT / "scripts/ray/cluster.yaml").read_text())
    schema = json.loads((Path(ray.origin).parent / "autoscaler/ray-schema.json").read_text())
    import jsonschema

    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]
    for source in cluster["file_mounts"].values():
        assert source.startswith("~") or (ROOT / source).is_dir()
    commands = [one for name, found in cluster.items() if "commands" in name for one in found]
    assert len(commands) == 8
    for command in commands:
        assert subprocess.run(["bash", "-n", "-c", command]).returncode == 0
    (install,) = (one for one in commands if "oct-io[" in one)
    assert re.findall(r"ray\S*?==(\S+?)\"", install) == [version("ray")]
    extras = set(re.findall(r"oct-io\[([^]]+)\]", install)[0].split(","))
    assert extras <= set(metadata("oct-io").get_all("Provides-Extra"))
