"""Fine-tuning by the loop: every mode learns, every setting acts, a killed run is no other."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from oct_vjepa import Encoder
from oct_vjepa.heads.build import load_head
from oct_vjepa.heads.configuration import AugmentationConfig, HeadConfig, LoraConfig
from oct_vjepa.measures.progress import watch_scores
from oct_vjepa.measures.target import KINDS
from oct_vjepa.probes.answers import shift_priors
from oct_xla import CheckpointError, Checkpoints, read_rows

FOLDER = Path(__file__).parent
PROGRAM = FOLDER / "small_training.py"
MODULES = ("small_training", "recipe", "examples", "learning", "training", "segmenting")
TRAINING_MODES = ("frozen", "attentive", "partial", "gradual", "full", "lora")


@pytest.fixture(scope="module")
def small():
    """The module small_training, and those of the app that it imports."""
    path = list(sys.path)
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.path.insert(0, str(FOLDER))
    import small_training

    yield small_training
    sys.path[:] = path
    for name in MODULES:
        sys.modules.pop(name, None)


def rows_of(run_dir):
    return read_rows(Path(run_dir) / "metrics.jsonl")


def tensors(run_dir):
    store = Checkpoints(Path(run_dir) / "checkpoints")
    return store.load(store.newest()).tensors


def weights(run_dir):
    """The encoder's weights at the end of a run."""
    start = "objective.encoder."
    return {k[len(start) :]: v for k, v in tensors(run_dir).items() if k.startswith(start)}


def moved(small, run_dir):
    before = small.encoder().state_dict()
    return {
        name for name, value in weights(run_dir).items() if not torch.equal(value, before[name])
    }


@pytest.mark.parametrize("mode", TRAINING_MODES)
def test_every_mode_learns_a_small_problem_and_leaves_what_predicts_alike(small, tmp_path, mode):
    settings = {"mode": mode, "epochs": 12, "unfreeze_every": 1, "metric": "log_loss"}
    if mode == "lora":
        settings["lora"] = LoraConfig(rank=2, alpha=4.0)
    found = small.train(tmp_path, **settings, head=HeadConfig(heads=2))
    test = small.parts().test & small.target().known
    numbers = watch_scores(found.scores_NK[test], small.target().take(test))
    assert numbers["auroc"] > 0.95, numbers
    encoder = Encoder.from_pretrained(tmp_path / "encoder")
    head = load_head(tmp_path / "head")
    assert encoder.config == small.encoder().config
    rows = np.flatnonzero(small.parts().test)
    volumes = torch.from_numpy(small.Volumes().voxels[rows]).unsqueeze(1)
    with torch.no_grad():
        again = head.answer.scores(head.from_tokens(encoder(volumes)))
    assert np.allclose(again.numpy(), found.scores_NK[rows], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_question_is_trained_and_scored_on_validation_and_test_rows(
    small, tmp_path, kind
):
    found = small.train(tmp_path, kind, mode="full", epochs=10)
    parts, target = small.parts(), small.target(kind)
    assert np.isfinite(found.scores_NK[parts.validation | parts.test]).all()
    assert np.isnan(found.scores_NK[parts.fit]).all()
    watched = parts.validation & target.known
    numbers = watch_scores(found.scores_NK[watched], target.take(watched))
    assert numbers == pytest.approx(found.validation)
    assert found.ending.best == pytest.approx(numbers[found.metric]), "of the best checkpoint"
    assert numbers[found.metric] > {"regression": 0.6, "survival": 0.65}.get(kind, 0.9)


def test_scores_come_from_the_best_checkpoint_and_not_from_the_last(small, tmp_path):
    found = small.train(tmp_path, mode="full", epochs=8, lr_head=0.05, lr_encoder=0.05,
                        schedule="constant", clip_norm=None, metric="log_loss")  # fmt: skip
    told = {row["step"]: row["log_loss"] for row in rows_of(tmp_path) if "log_loss" in row}
    assert found.ending.best_step == min(told, key=told.get)
    assert found.validation["log_loss"] == pytest.approx(min(told.values()), abs=1e-6)


def test_a_metric_or_weights_that_do_not_fit_are_refused_before_a_step(small, tmp_path):
    with pytest.raises(ValueError, match=r"training.metric \(aurocc\) must be one of auto, auroc,"):
        small.train(tmp_path, mode="full", metric="aurocc")
    with pytest.raises(
        ValueError, match=r"training.class_weights \(\[1, 2, 3\]\) must be a number"
    ):
        small.train(tmp_path, mode="full", class_weights=[1, 2, 3])
    assert not list(tmp_path.iterdir())


def test_early_stopping_ends_a_run_that_makes_no_progress(small, tmp_path):
    still = {"mode": "frozen", "lr_head": 1e-12, "lr_encoder": 1e-12, "epochs": 20}
    found = small.train(tmp_path, **still, patience=2)
    per_epoch = 2
    assert (found.ending.reason, found.ending.step) == ("early", 3 * per_epoch)
    assert found.ending.best_step == per_epoch
    again = small.train(tmp_path, **still, patience=2)
    assert np.array_equal(again.scores_NK, found.scores_NK, equal_nan=True)
    assert again.ending == found.ending


def test_modes_move_what_they_say(small, tmp_path):
    ask = {"epochs": 1, "layer_decay": 1.0}
    for mode, inside in (("frozen", ()), ("partial", ("blocks.1.", "norm."))):
        small.train(tmp_path / mode, mode=mode, blocks=1, **ask)
        names = moved(small, tmp_path / mode)
        assert bool(names) == bool(inside)
        assert all(name.startswith(inside) for name in names)
    small.train(tmp_path / "full", mode="full", **ask)
    assert len(moved(small, tmp_path / "full")) == len(weights(tmp_path / "full"))


def test_gradual_opens_a_layer_each_time_and_reports_it(small, tmp_path):
    small.train(tmp_path, mode="gradual", epochs=4, unfreeze_every=1, patience=0)
    opened = {row["step"]: row["open_layers"] for row in rows_of(tmp_path)}
    assert opened == {step: min(step // 2, 3) for step in range(1, 9)}


def test_lora_changes_adapters_only_until_they_are_merged(small, tmp_path):
    small.train(tmp_path, mode="lora", lora=LoraConfig(rank=2, parts=["qkv"]), lr_encoder=1e-2)
    before = small.encoder().state_dict()
    for name, value in weights(tmp_path).items():
        if "lora_" not in name:
            assert torch.equal(value, before[name.replace(".base_layer", "")]), name
    merged = Encoder.from_pretrained(tmp_path / "encoder").state_dict()
    changed = {name for name in before if not torch.equal(before[name], merged[name])}
    assert changed == {f"blocks.{i}.attention.qkv.weight" for i in (0, 1)}


def test_each_layer_gets_its_learning_rate(small):
    from oct_judge.training import make_objective

    config = small.recipe(mode="full", lr_head=1e-2, lr_encoder=1e-3, layer_decay=0.5)
    objective = make_objective(config, small.encoder(), small.target("ordinal"), 2, 0)
    plan = config.plan(20, 1)
    peak = max(config.rate(step, plan) for step in range(plan.steps))
    groups = objective.parameter_groups(0.05)
    rate = {id(w): group["lr_scale"] * peak for group in groups for w in group["params"]}
    encoder = objective.encoder
    assert rate[id(objective.head.linear.weight)] == pytest.approx(1e-2)
    assert rate[id(encoder.norm.weight)] == pytest.approx(1e-3)
    assert rate[id(encoder.blocks[1].attention.qkv.weight)] == pytest.approx(5e-4)
    assert rate[id(encoder.blocks[0].attention.qkv.weight)] == pytest.approx(2.5e-4)
    assert rate[id(encoder.patches.proj.weight)] == pytest.approx(1.25e-4)


def test_schedules_warm_up_and_fall_as_they_say(small):
    shape = {"epochs": 10, "warmup_epochs": 2.0, "lr_head": 1.0, "lr_encoder": 1.0}
    plans = {}
    for kind in ("cosine", "constant", "step"):
        config = small.recipe(**shape, schedule=kind, step_epochs=4, final_fraction=0.1)
        plan = config.plan(20, 1)
        plans[kind] = [config.rate(step, plan) for step in range(plan.steps)]
        assert plans[kind][:4] == [0.25, 0.5, 0.75, 1.0]
    assert plans["constant"][4:] == [1.0] * 16
    assert plans["step"][4:] == pytest.approx([1.0] * 4 + [0.1] * 8 + [0.01] * 4)
    assert plans["cosine"][-1] == pytest.approx(0.1)
    assert all(a > b for a, b in zip(plans["cosine"][4:], plans["cosine"][5:], strict=False))


def test_accumulated_parts_give_the_run_of_the_whole_batch(small, tmp_path):
    ask = {"kind": "multilabel", "mode": "full", "class_weights": "auto", "label_smoothing": 0.1}
    small.train(tmp_path / "whole", **ask)
    small.train(tmp_path / "parts", accumulate=4, **ask)
    one, other = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert all(torch.allclose(one[name], other[name], atol=1e-4) for name in one)
    for a, b in zip(rows_of(tmp_path / "whole"), rows_of(tmp_path / "parts"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)


def test_accumulation_is_refused_for_survival(small, tmp_path):
    with pytest.raises(ValueError, match=r"training\.accumulate \(2\) must be 1 for survival"):
        small.train(tmp_path, "survival", accumulate=2)


def test_class_weights_are_counted_on_the_training_rows(small):
    from oct_judge.training import class_weights

    target = small.target()
    values = np.array([0] * 6 + [1] * 2)
    few = replace(target, values=values)
    assert class_weights(small.recipe(class_weights="auto"), few) == pytest.approx([2 / 3, 2.0])
    assert class_weights(small.recipe(class_weights="none"), few) is None
    assert class_weights(small.recipe(class_weights=[1, 3]), few) == [1.0, 3.0]
    labels = replace(small.target("multilabel"), values=np.array([[1, 0], [0, 1], [0, -1], [0, 1]]))
    assert class_weights(small.recipe(), labels) == [3.0, 0.5]
    assert class_weights(small.recipe(), small.target("regression")) is None
    with pytest.raises(ValueError, match="every class needs some"):
        class_weights(small.recipe(), replace(target, values=np.zeros(4, dtype=np.int64)))
    with pytest.raises(ValueError, match=r"training\.class_weights \('balanced'\)"):
        small.recipe(class_weights="balanced")
    with pytest.raises(ValueError, match=r"class_weights \(\[1, 3\]\) must be none or auto"):
        small.recipe(class_weights=[1, 3], head_start="probe")


def test_probabilities_are_those_of_the_fit_rows_whatever_the_weights_of_the_classes(small):
    from oct_judge.training import class_weights, shares_in_fit

    target = replace(small.target(), values=np.array([0] * 6 + [1] * 2))
    labels = replace(small.target("multilabel"), values=np.array([[1, 0], [0, 1], [0, 1], [0, 1]]))
    for asked in (target, labels):
        counted = shares_in_fit(small.recipe(class_weights="auto"), asked)
        given = small.recipe(class_weights=class_weights(small.recipe(), asked))
        assert shares_in_fit(given, asked) == pytest.approx(counted)
    assert shares_in_fit(small.recipe(class_weights="none"), target) is None
    learned = np.array([[0.25, 0.75]])  # odds of 3, with a weight of 9 for the second class
    shares = shares_in_fit(small.recipe(class_weights=[1, 9]), target)
    assert shift_priors("nominal", learned, shares)[0] == pytest.approx([0.75, 0.25])
    shares = shares_in_fit(small.recipe(class_weights=[9, 1]), labels)
    assert shift_priors("multilabel", learned, shares)[0] == pytest.approx([1 / 28, 0.75])


@pytest.mark.parametrize(
    "setting",
    [
        {"class_weights": [1.0, 5.0]},
        {"label_smoothing": 0.2},
        {"drop_path": 0.5},
        {"head": HeadConfig(dropout=0.5)},
        {"weight_decay": 0.5},
        {"augmentation": AugmentationConfig(flip=0.5, gain=0.2, offset=9.0, shift=(0, 2, 2))},
        {"clip_norm": 0.01},
        {"precision": "bf16"},
        {"seed": 1},
    ],
)
def test_every_setting_changes_the_run(small, tmp_path, setting):
    ask = {"mode": "full", "epochs": 2, "class_weights": "none"}
    small.train(tmp_path / "plain", **ask)
    small.train(tmp_path / "other", **(ask | setting))
    one, other = rows_of(tmp_path / "plain"), rows_of(tmp_path / "other")
    assert [row["step"] for row in one] == [row["step"] for row in other]
    assert one[-1]["loss"] != other[-1]["loss"]


def test_augmentation_by_physics_has_other_draws_for_another_seed(small):
    from oct_io.space.transforms import AugmentConfig
    from oct_judge.examples import LabelledSamples

    config = small.recipe(scan_augmentation=AugmentConfig(affine_probability=0.0))
    fit, labels = np.arange(4), np.zeros(4, dtype=np.int64)
    one, again, other = (
        LabelledSamples(
            small.Volumes(), fit, config, encoder=small.encoder().config, seed=seed, labels=labels
        )(1, 0).volume_BCZYX
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_bfloat16_follows_float32_and_keeps_its_weights_in_float32(small, tmp_path):
    small.train(tmp_path / "one", mode="full")
    small.train(tmp_path / "other", mode="full", precision="bf16")
    for a, b in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "other"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=0.05)
    assert {value.dtype for value in weights(tmp_path / "other").values()} == {torch.float32}


def test_a_run_is_repeated_bit_for_bit_and_its_encoder_stays_as_it_was_given(small, tmp_path):
    ask = {"mode": "full", "drop_path": 0.2, "augmentation": AugmentationConfig(flip=0.5)}
    one, other = (small.train(tmp_path / name, **ask) for name in ("one", "other"))
    assert np.array_equal(one.scores_NK, other.scores_NK, equal_nan=True)
    first, second = tensors(tmp_path / "one"), tensors(tmp_path / "other")
    assert all(torch.equal(first[name], second[name]) for name in first)
    from oct_judge.learning import own_encoder

    given = small.encoder()
    copy = own_encoder(given, small.recipe(drop_path=0.3), 0)
    assert copy.blocks[1].drop_path == 0.3
    assert given.blocks[1].drop_path == 0.0


STILL = {"lr_head": 1e-12, "lr_encoder": 1e-12, "weight_decay": 0.0}


@pytest.mark.parametrize(
    ("mode", "kind"),
    [(mode, "nominal") for mode in ("partial", "gradual", "full", "lora")]
    + [("full", kind) for kind in KINDS if kind != "nominal"],
)
def test_training_that_starts_at_a_probe_and_does_not_move_says_what_the_probe_says(
    small, tmp_path, mode, kind
):
    ask = {"mode": mode, "head_start": "probe", "epochs": 1, "class_weights": "none", **STILL}
    found = small.train(tmp_path, kind, **ask)
    fitted, _ = small.probe_start(small.recipe(**ask), kind)
    encoder = small.encoder().eval()
    with torch.no_grad():
        tokens = encoder(torch.from_numpy(small.Volumes().voxels).unsqueeze(1), layers=(0, 1))
        read = torch.cat([tokens[one] for one in fitted.head.levels], dim=-1)
        wanted = fitted.head.eval().answer.scores(fitted.head.from_tokens(read)).numpy()
    rows = np.flatnonzero(small.parts().validation | small.parts().test)
    assert np.allclose(
        found.scores_NK[rows], wanted[rows], atol=1e-4 * max(1, np.abs(wanted).max())
    )
    assert found.ending.best_step == 0, "nothing after it is better"
    assert found.chosen == {**fitted.told, "steps": 0}
    told = [row["step"] for row in rows_of(tmp_path) if found.metric in row]
    assert told == [0, 2]


def test_training_from_a_probe_goes_on_learning_and_leaves_a_head_that_reads_its_blocks(
    small, tmp_path
):
    found = small.train(tmp_path, mode="full", head_start="probe", metric="log_loss")
    assert found.ending.best_step > 0
    head, encoder = load_head(tmp_path / "head"), Encoder.from_pretrained(tmp_path / "encoder")
    rows = np.flatnonzero(small.parts().test)
    with torch.no_grad():
        volumes = torch.from_numpy(small.Volumes().voxels[rows]).unsqueeze(1)
        tokens = torch.cat(encoder(volumes, layers=head.levels), dim=-1)
        again = head.answer.scores(head.from_tokens(tokens))
    assert np.allclose(again.numpy(), found.scores_NK[rows], atol=1e-5)


def test_heads_that_no_probe_can_be_are_refused_in_one_line(small):
    from oct_judge.question import FinetuneConfig
    from oct_judge.starting import check_start
    from oct_vjepa.evaluation.readouts import ReadoutConfig

    for settings, said in (
        ({"head": HeadConfig(kind="mlp")}, "starts a linear head; training.head.kind is mlp"),
        ({"mode": "attentive"}, "training.head.kind is attentive in mode=attentive"),
        ({"head": HeadConfig(pool="max")}, r"training.head.pool \(max\) does nothing beside"),
        ({"head_start": "zero"}, r"training.head_start \('?zero'?\)"),
    ):
        with pytest.raises(ValueError, match=said):
            small.recipe(**({"head_start": "probe"} | settings))
    for mode in ("segment", "attentive"):
        with pytest.raises(ValueError, match=f"training.head_start=probe .*{mode}"):
            FinetuneConfig(mode=mode, training=small.recipe(head_start="probe"))
    with pytest.raises(ValueError, match=r"readout.blocks \(0\) must be last, late or all"):
        check_start(ReadoutConfig(blocks=["last", "0"]), small.target())
    three = replace(small.target("ordinal"), names=("a", "b", "c"))
    with pytest.raises(ValueError, match="an ordinal question of more than two classes"):
        check_start(ReadoutConfig(), three)


def start(run_dir, head_start):
    asked = ["epochs=30", "patience=0", f"head_start={head_start}"]
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(run_dir), *asked],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def one_thread():
    """As in the program: sums then have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("head_start", ["random", "probe"])
def test_a_run_that_is_killed_and_goes_on_equals_one_that_was_not(
    small, tmp_path, one_thread, head_start
):
    killed = start(tmp_path / "killed", head_start)
    whole = small.train(tmp_path / "whole", epochs=30, patience=0, head_start=head_start)
    journal = tmp_path / "killed" / "metrics.jsonl"
    while not journal.exists() or journal.read_text().count("\n") < 21:
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    again = small.train(tmp_path / "killed", epochs=30, patience=0, head_start=head_start)
    assert np.array_equal(again.scores_NK, whole.scores_NK, equal_nan=True)
    one, other = tensors(tmp_path / "whole"), tensors(tmp_path / "killed")
    assert all(torch.equal(one[name], other[name]) for name in one)
    losses = [
        [(r["step"], r.get("loss"), r.get("auroc")) for r in rows_of(tmp_path / n)]
        for n in ("whole", "killed")
    ]
    assert losses[0] == losses[1]


def test_a_folder_of_another_run_is_refused_by_the_setting_that_differs(small, tmp_path):
    small.train(tmp_path, mode="full", epochs=1)
    with pytest.raises(CheckpointError, match=r"training\.label_smoothing = 0\.0, now it is 0\.1"):
        small.train(tmp_path, mode="full", epochs=1, label_smoothing=0.1)
    small.train(tmp_path, mode="full", epochs=1, patience=3)
    with pytest.raises(CheckpointError, match=r"question = \w+, now it is \w+"):
        small.train(tmp_path, "ordinal", mode="full", epochs=1)


def test_rows_without_an_answer_are_not_trained_on_and_a_part_may_be_missing(small, tmp_path):
    parts = small.parts()
    assert parts.fit[1]
    assert not small.target().known[2]
    without = parts._replace(validation=np.zeros(60, dtype=bool))
    found = small.train(tmp_path / "none", rows=without, epochs=1)
    assert (found.ending.reason, found.validation) == ("done", {})
    assert np.isfinite(found.scores_NK[parts.test]).all()
    with pytest.raises(ValueError, match="no row to train on"):
        small.train(tmp_path / "empty", rows=parts._replace(fit=np.zeros(60, dtype=bool)))
    assert json.loads((tmp_path / "none/head/config.json").read_text())["linear_head"]


def test_samples_can_be_sent_to_workers_and_are_the_same_there(small):
    from oct_judge.examples import LabelledSamples

    config = small.recipe(augmentation=AugmentationConfig(flip=0.5, gain=0.2, shift=(1, 2, 2)))
    labels = small.target("regression").values[10:20]
    samples = LabelledSamples(
        small.Volumes(), np.arange(10, 20), config, encoder=small.encoder().config, seed=4,
        labels=labels,
    )  # fmt: skip
    there = pickle.loads(pickle.dumps(samples))
    for index, epoch in ((0, 0), (3, 1), (3, 2)):
        one, other = samples(index, epoch), there(index, epoch)
        assert torch.equal(one.volume_BCZYX, other.volume_BCZYX)
        assert float(one.label_B) == pytest.approx(labels[index])
    assert not torch.equal(samples(3, 1).volume_BCZYX, samples(3, 2).volume_BCZYX)


def test_processes_share_the_validation_rows_and_every_row_counts_once(small):
    from oct_judge.examples import stripe
    from oct_xla import pick_runtime

    rows = np.arange(3, 60, 3)[:10]
    for world in (1, 3, 4):
        seen, batches = [], set()
        for rank in range(world):
            runtime = pick_runtime("cpu")
            runtime.rank, runtime.world = rank, world
            found = list(stripe(small.Volumes(), rows, 8, runtime, small.encoder().config))
            seen += [row for batch in found for row in batch.rows]
            batches.add((len(found), tuple(batch.volume_BCZYX.shape for batch in found)))
        assert sorted(seen) == rows.tolist()
        assert len(batches) == 1, "all processes compute batches of one shape, equally many"


def test_a_batch_that_devices_and_parts_do_not_divide_is_cut_and_too_few_rows_are_refused(small):
    config = small.recipe(batch_size=16, accumulate=2)
    assert config.plan(100, 3) == (12, 8, 32)
    assert config.plan(9, 1).batch_size == 8
    with pytest.raises(ValueError, match=r"training\.batch_size"):
        config.plan(3, 2)
