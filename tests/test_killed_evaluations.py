"""An evaluation of frozen features that is killed and asked again is one that was never killed."""

import json
import os
import signal
import time

import pytest

pytestmark = pytest.mark.drill

QUICK = (
    *("compare.baselines=[thumbnail]", "compare.together=false", "compare.ranked=false"),
    *("compare.shortcuts=[]", "compare.subgroups=[]", "bootstrap=100", "compare.maps=1"),
)
RUNS = ("frozen-killed", "frozen-whole")
LEFT = ("predictions.csv", "model/members/0/probe.json", "model/members/0/probe.safetensors")


def test_kill_9_between_two_encoders_changes_no_byte(smoke, place, start, finish):
    def ask(name):
        return start(
            "finetune", "experiment=smoke", f"data.root={smoke.data}", *QUICK,
            f"encoder={smoke.path / 'encoder'}", f"features={place / name}-features/kept",
            f"run_dir={place / name}",
        )  # fmt: skip

    killed = ask("frozen-killed")
    kept = place / "frozen-killed-features" / "kept"
    while not list(kept.glob("*.safetensors")):  # those of the encoder; random init comes next
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.002)
    os.kill(killed.pid, signal.SIGKILL)
    assert finish(killed).code == -signal.SIGKILL
    assert not (place / "frozen-killed" / "results.json").exists()
    before = {one.name: one.read_bytes() for one in kept.glob("*.safetensors")}
    outcome = finish(ask("frozen-killed"))
    assert outcome.code == 0, outcome.errors
    assert finish(ask("frozen-whole")).code == 0
    for name in LEFT:
        one, other = (
            (place / run / name).read_bytes() for run in ("frozen-killed", "frozen-whole")
        )
        assert one == other, name
    for name, content in before.items():
        assert (kept / name).read_bytes() == content
        assert (place / "frozen-whole-features" / "kept" / name).read_bytes() == content
    told = [json.loads((place / run / "results.json").read_text()) for run in RUNS]
    for one in told:
        one.pop("command")
        one.pop("entry")
    assert told[0] == told[1]
