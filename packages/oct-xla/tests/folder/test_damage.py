"""Damaged checkpoints: never a wrong number, never step 0 in silence, and the fallback is said."""

import json
import shutil

import numpy as np
import pytest
import torch
from oct_xla import CheckpointError, Checkpoints, LoopConfig, fit, pick_runtime, read_rows
from oct_xla.telling.metrics import CLOCKS
from toy import Toy, make_feed, score, warm_up

STEPS, EVERY, BEGUN = 12, 2, 8


def train(run_dir, steps=STEPS, **options):
    """Train with an evaluation at every third step; returns the steps that were taken."""
    toy, taken = Toy(dropout=0.1), []
    config = LoopConfig(
        steps=steps,
        log_every=1,
        checkpoint_every=EVERY,
        evaluate_every=3,
        best_metric="score",
        keep_last=3,
        **options,
    )

    def rate(step):
        taken.append(step)
        return warm_up(step)

    fit(
        toy,
        make_feed(),
        config,
        runtime=pick_runtime("cpu"),
        run_dir=run_dir,
        learning_rate=rate,
        seed=3,
        evaluate=lambda step: score(toy, step),
    )
    return taken


def computed(run_dir):
    rows = read_rows(run_dir / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key not in CLOCKS} for row in rows]


def outcome(run_dir):
    """What a run leaves behind and nothing may change: rows, tensors, the best checkpoint."""
    store = Checkpoints(run_dir / "checkpoints")
    best = json.loads((run_dir / "checkpoints/best.json").read_text())
    assert store.best() == best
    return computed(run_dir), store.load(STEPS).tensors, best


def assert_equal(one, other):
    assert one[0] == other[0]
    assert one[2] == other[2]
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(one[1][name], value) for name, value in other[1].items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("whole")
    train(run_dir)
    return outcome(run_dir)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run that was stopped after 8 of 12 steps, by a failing sample of the ninth."""
    run_dir = tmp_path_factory.mktemp("begun")

    class Stop(Exception):
        pass

    def rate(step):
        if step == BEGUN:
            raise Stop
        return warm_up(step)

    toy = Toy(dropout=0.1)
    config = LoopConfig(
        steps=STEPS,
        log_every=1,
        checkpoint_every=EVERY,
        evaluate_every=3,
        best_metric="score",
        keep_last=3,
    )
    with pytest.raises(Stop):
        fit(
            toy,
            make_feed(),
            config,
            runtime=pick_runtime("cpu"),
            run_dir=run_dir,
            learning_rate=rate,
            seed=3,
            evaluate=lambda step: score(toy, step),
        )
    assert Checkpoints(run_dir / "checkpoints").newest() == BEGUN
    return run_dir


@pytest.fixture
def run_dir(begun, tmp_path):
    shutil.copytree(begun, tmp_path / "run")
    return tmp_path / "run"


def flip(draws, folder):
    file = draws.choice(sorted(folder.iterdir()))
    content = bytearray(file.read_bytes())
    for place in draws.integers(0, len(content), draws.integers(1, 100)):
        content[place] ^= 1 << int(draws.integers(0, 8))
    file.write_bytes(content)


def truncate(draws, folder):
    file = draws.choice(sorted(folder.iterdir()))
    file.write_bytes(file.read_bytes()[: draws.integers(0, file.stat().st_size)])


def zero(draws, folder):
    file = draws.choice(sorted(folder.iterdir()))
    file.write_bytes(bytes(file.stat().st_size))


def lose_file(draws, folder):
    draws.choice(sorted(folder.iterdir())).unlink()


def lose_folder(draws, folder):
    shutil.rmtree(folder)


def swap_state(draws, folder):
    others = [one for one in folder.parent.glob("step-*") if one != folder]
    shutil.copy(draws.choice(sorted(others)) / "state.json", folder / "state.json")


def swap_tensors(draws, folder):
    others = [one for one in folder.parent.glob("step-*") if one != folder]
    name = "tensors.safetensors"
    shutil.copy(draws.choice(sorted(others)) / name, folder / name)


def add_foreign(draws, folder):
    names = ("step-00000012.bak", "step-00000010", "step-00000011", "notes.txt", ".tmp-00000010")
    foreign = folder.parent / str(draws.choice(names))
    if not foreign.exists() and draws.integers(2):
        foreign.write_bytes(draws.bytes(100))
    elif not foreign.exists():
        shutil.copytree(folder, foreign)
    (folder / "foreign.safetensors").write_bytes(draws.bytes(50))


KINDS = (
    flip, truncate, zero, lose_file, lose_folder, swap_state, swap_tensors, add_foreign,
)  # fmt: skip


def damage(run_dir, seed):
    draws = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    folders = sorted((run_dir / "checkpoints").glob("step-????????"), reverse=True)
    for folder in folders[: draws.choice([1, 1, 1, 2, len(folders)])]:
        if (folder.exists() and len(list(folder.parent.glob("step-????????"))) > 1) or kind not in (
            swap_state,
            swap_tensors,
        ):
            kind(draws, folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_a_damaged_run_ends_with_the_same_numbers_or_says_that_it_cannot(
    run_dir, whole, capsys, seed
):
    damage(run_dir, seed)
    try:
        taken = train(run_dir)
    except CheckpointError as error:
        said = str(error)
        assert "no checkpoint is whole" in said
        assert "\n" not in said
        with pytest.raises(CheckpointError, match="no checkpoint is whole"):
            train(run_dir)  # nor at the second try
        return
    said = capsys.readouterr().err
    assert_equal(outcome(run_dir), whole)
    if taken[0] < BEGUN:
        assert f"from step {taken[0]}" in said or "begins at step 0" in said
    assert all(line.startswith(str(run_dir)) for line in said.splitlines())


def test_flipped_bytes_fall_back_to_the_checkpoint_before_and_are_kept(run_dir, whole, capsys):
    folder = run_dir / "checkpoints/step-00000008"
    flip(np.random.default_rng(0), folder)
    assert train(run_dir)[0] == 6
    assert_equal(outcome(run_dir), whole)
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith(f"{folder}: damaged: ")
    assert line.endswith("kept aside as damaged-00000008, going on from step 6")
    assert (run_dir / "checkpoints/damaged-00000008").is_dir()


def test_nothing_whole_is_an_error_again_and_again_and_touches_nothing(run_dir):
    before = (run_dir / "metrics.jsonl").read_bytes()
    for file in run_dir.glob("checkpoints/*/*.safetensors"):
        file.write_bytes(file.read_bytes()[:50])
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"no checkpoint is whole .* has 50 bytes"):
            train(run_dir)
    shutil.rmtree(run_dir / "checkpoints/step-00000008")
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        train(run_dir)
    assert (run_dir / "metrics.jsonl").read_bytes() == before


def test_beginning_again_over_old_metrics_is_said(run_dir, capsys):
    shutil.rmtree(run_dir / "checkpoints")
    assert train(run_dir)[0] == 0
    assert "no checkpoint, begins at step 0; 8 rows of metrics" in capsys.readouterr().err


def test_foreign_names_are_left_alone(run_dir, whole):
    foreign = run_dir / "checkpoints/step-00000012.bak"
    shutil.copytree(run_dir / "checkpoints/step-00000008", foreign)
    assert train(run_dir)[0] == 8
    assert foreign.is_dir()
    assert_equal(outcome(run_dir), whole)


def test_a_checkpoint_under_another_ones_name_is_not_taken(run_dir, whole, capsys):
    shutil.copytree(run_dir / "checkpoints/step-00000006", run_dir / "checkpoints/step-00000010")
    assert train(run_dir)[0] == 8
    assert "holds the checkpoint of step 6" in capsys.readouterr().err
    assert_equal(outcome(run_dir), whole)


def test_a_state_of_another_version_is_refused_in_one_line(run_dir):
    store = Checkpoints(run_dir / "checkpoints")
    tensors, state = store.load(8)
    del state["identity"]
    store.save(8, tensors, state)
    with pytest.raises(CheckpointError, match="not made by this version"):
        train(run_dir)


def test_tied_weights_are_saved_and_come_back(tmp_path):
    shared = torch.arange(4.0)
    Checkpoints(tmp_path).save(1, {"a": shared, "b": shared}, {})
    tensors = Checkpoints(tmp_path).load(1).tensors
    assert torch.equal(tensors["a"], shared)
    assert torch.equal(tensors["b"], shared)
