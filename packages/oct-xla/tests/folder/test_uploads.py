"""Checkpoints that go up in parts: a kill at any request of real S3 and GCS APIs loses nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.drill


@pytest.mark.parametrize(
    ("scheme", "stages"),
    [
        # S3 is told of the parts, sent each, and told to put them together.
        ("s3", ("?uploads", "?partNumber=", "?uploadId=")),
        ("gs", ("uploadType=resumable", "uploadType=multipart")),
    ],
)
def test_a_kill_at_any_request_that_changes_the_bucket_loses_nothing(
    scheme, stages, servers, tmp_path
):
    program = Path(__file__).parent.parent / "cut.py"
    command = [sys.executable, program, tmp_path, scheme, str(servers[scheme])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=2400)
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    requests = [run.pop("request") for run in runs]
    assert len(runs) > 20
    for stage in stages:
        assert sum(stage in one for one in requests) > 1, stage
    for run in runs:
        assert run == {
            "kills": 1, "rows": True, "tensors": True, "best": True, "kept": True, "left": [],
        }  # fmt: skip
