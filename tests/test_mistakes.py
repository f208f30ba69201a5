"""Wrong input: one line that says what to put right, exit code 2, and no traceback."""

import re
import sys

import numpy as np
import oct_io
import pytest
import torch

PROGRESS = re.compile(
    r"(drawing phantoms|reading headers|resampling scans): \d+ of \d+|\w+: train \d+ volumes .*"
)


@pytest.fixture
def refused(call_app):
    """Runs an app that must refuse; gives the line that says why."""

    def refused(app, *overrides, after_progress=False):
        return the_line(call_app(app, *overrides), after_progress)

    return refused


def the_line(outcome, after_progress=False):
    lines = outcome.error_lines
    assert outcome.code == 2, outcome.errors
    if after_progress:
        lines = [line for line in lines if not PROGRESS.fullmatch(line)]
    assert len(lines) == 1, outcome.errors
    assert lines[0].startswith("error: ")
    assert "Traceback" not in outcome.errors + outcome.out
    assert "object_type" not in lines[0]
    return lines[0]


def garbage(folder, count=3):
    folder.mkdir()
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, 4000, dtype=np.uint8)
        (folder / f"scan{number}.dcm").write_bytes(noise.tobytes())
    return folder


@pytest.fixture
def on_folder(tmp_path):
    """Overrides that pretrain on a folder and write below the test's own."""

    def overrides(root):
        run_dir, cache = tmp_path / "run", tmp_path / "cache"
        return ("data=folder", f"data.root={root}", f"data.cache={cache}", f"run_dir={run_dir}",
                "data.jobs=1")  # fmt: skip

    return overrides


@pytest.mark.slow
def test_a_misspelt_key_ends_the_program_in_one_line(run_app):
    line = the_line(run_app("pretrain", "encoder.wdith=3"))
    assert "wdith" in line


@pytest.mark.parametrize(
    ("override", "culprits"),
    [
        ("encoder.widht=3", ["encoder.widht: there is no such", "did you mean encoder.width"]),
        ("+encoder.wdith=3", ["encoder.wdith: there is no such", "did you mean encoder.width"]),
        ("width=3", ["width: there is no such", "encoder.width"]),
        ("objective.levls=3", ["did you mean objective.levels"]),
        ("encodr=base", ["did you mean encoder"]),
        ("+stray=3", ["stray"]),
        ("encoder=colossal", ["encoder/colossal", "cpu_smoke"]),
        ("encoder=smal", ["did you mean small?"]),
        ("experiment=lost", ["experiment/lost", "smoke"]),
        ("encoder.heads=5", ["heads (5)"]),
        ("encoder.width=wide", ["encoder.width must be an integer, not 'wide'"]),
        ("watched_volumes=0", ["watched_volumes (0) must be 1 or more"]),
        ("loop.steps=abc", ["loop.steps must be an integer, not 'abc'"]),
        ("schedule.peak=high", ["schedule.peak must be a number, not 'high'"]),
        ("measure_input=perhaps", ["measure_input must be true or false", "perhaps"]),
        ("data.kept=s3://b/kept", ["data.kept (s3://b/kept) must be a local folder"]),
        ("encoder.patch_size=[3,8,16]", ["patch_size"]),
        ("loop.steps=0", ["loop.steps (0)"]),
        ("feed.batch_size=0", ["feed.batch_size (0)"]),
        ("schedule.kind=stairs", ["schedule.kind", "cosine"]),
        ("data.window=giant", ["data.window (giant)", "macula6"]),
        ("data.phantom.participants=0", ["participants (0)"]),
        ("probe.bootstrap=9", ["probe.bootstrap (9)", "100"]),
        ("loop.steps=3=4", ["loop.steps=3=4"]),
        ("resume=sometimes", ["resume", "sometimes", "never"]),
        ("runtime.device=tpu9", ["tpu9", "cuda"]),
        ("runtime.precision=fp4", ["fp4", "bf16"]),
    ],
)
def test_a_wrong_setting_is_named(refused, tmp_path, override, culprits):
    line = refused("pretrain", override, f"run_dir={tmp_path / 'run'}")
    for culprit in culprits:
        assert culprit in line
    assert "+encoder" not in line, "it would not work either"
    assert not (tmp_path / "run").exists() or override.startswith(("resume", "runtime"))


@pytest.mark.parametrize("app", ["pretrain", "finetune"])
def test_a_bucket_that_cannot_be_reached_is_refused_and_no_folder_called_s3_appears(
    refused, smoke, tmp_path, place, app, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    given = {
        "pretrain": ("pretrain", f"data.root={smoke.data}"),
        "finetune": ask(smoke, tmp_path),
    }[app]
    line = refused(*given, "run_dir=nosuch://bucket/run")
    assert "nosuch://bucket/run: cannot be read or written: Protocol not known: nosuch" in line
    assert not (place / "nosuch:").exists()


def test_a_data_set_without_its_place_is_told_how_to_give_it(refused, tmp_path):
    assert "data.root=" in refused("pretrain", "data=folder", f"run_dir={tmp_path / 'run'}")


def test_a_wrong_type_names_its_key_in_full(refused):
    assert "encoder.width" in refused("pretrain", "encoder.width=wide")


def test_a_window_that_does_not_fit_the_encoder_is_refused_before_any_scan_is_read(
    refused, tmp_path
):
    line = refused("pretrain", "encoder=base", f"data.root={tmp_path / 'data'}")
    assert "data.window=tiny" in line
    assert "(64, 384, 384)" in line
    assert not (tmp_path / "data").exists()


def test_masks_that_do_not_fit_the_grid_are_refused(refused, smoke, tmp_path):
    line = refused(
        "pretrain", "experiment=smoke", f"data.root={smoke.data}", f"run_dir={tmp_path / 'run'}",
        "masking.sets=[{blocks: 1, scale: 0.1, target_fraction: 0.0, context_fraction: 0.9}]",
    )  # fmt: skip
    assert "mask" in line


def test_a_missing_folder_is_named(refused, on_folder, tmp_path):
    line = refused("pretrain", *on_folder(tmp_path / "nowhere"))
    assert f"{tmp_path / 'nowhere'}: no such folder" in line


def test_a_file_in_the_place_of_a_folder_is_named(refused, on_folder, tmp_path):
    (tmp_path / "scan.dcm").write_bytes(b"one scan")
    line = refused("pretrain", *on_folder(tmp_path / "scan.dcm"))
    assert f"{tmp_path / 'scan.dcm'}: is a file; give the folder that holds the scans" in line
    line = refused("finetune", f"predict={tmp_path}", f"model={tmp_path / 'scan.dcm'}")
    assert "scan.dcm: is a file; give the folder of a finished model, RUN/model" in line


def test_a_value_with_signs_of_hydra_is_told_with_its_quotes(refused):
    pattern = r"data.bscans.pattern=(?P<participant>\d+)_(?P<eye>O[DI])"
    line = refused("pretrain", "data=bscans", pattern)
    assert f"{pattern}: has signs that Hydra reads as its own" in line
    assert r"""'data.bscans.pattern="(?P<participant>\d+)_(?P<eye>O[DI])"'""" in line


def test_a_folder_without_scans_is_named_with_what_was_looked_for(refused, on_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no scans here")
    line = refused("pretrain", *on_folder(tmp_path / "empty"))
    assert f"{tmp_path / 'empty'}: no scans" in line
    assert ".dcm" in line


def test_a_folder_where_every_scan_is_broken_says_how_many_and_why(refused, on_folder, tmp_path):
    overrides = on_folder(garbage(tmp_path / "broken"))
    line = refused("pretrain", *overrides, after_progress=True)
    assert re.search(r"\d of 3 scans cannot be used", line)
    assert "DICOM" in line


@pytest.mark.slow
def test_a_folder_of_broken_scans_ends_the_program_in_one_line(run_app, on_folder, tmp_path):
    outcome = run_app("pretrain", *on_folder(garbage(tmp_path / "broken")))
    assert "of 3 scans cannot be used" in the_line(outcome, after_progress=True)


def test_a_run_folder_of_another_configuration_is_refused_with_both_values(refused, smoke):
    line = refused(
        "pretrain", "experiment=smoke", f"run_dir={smoke.path}", f"data.root={smoke.data}",
        "schedule.peak=0.123",
    )  # fmt: skip
    assert str(smoke.path) in line
    assert re.search(r"schedule\.peak was [\d.]+, now 0\.123;", line)


def test_resume_never_refuses_to_touch_an_existing_run(refused, smoke):
    before = (smoke.path / "config.yaml").read_bytes()
    line = refused(
        "pretrain", "experiment=smoke", f"run_dir={smoke.path}", f"data.root={smoke.data}",
        "resume=never",
    )  # fmt: skip
    assert str(smoke.path) in line
    assert "resume=never" in line
    assert (smoke.path / "config.yaml").read_bytes() == before


def test_a_run_folder_that_is_a_file_is_named(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused("pretrain", f"run_dir={tmp_path / 'file'}")


def test_an_unknown_label_column_is_told_before_training(refused, smoke, tmp_path):
    run_dir = tmp_path / "run"
    line = refused(
        "pretrain", "experiment=smoke", f"data.root={smoke.data}", f"run_dir={run_dir}",
        "probe.columns=[glaucoma]",
    )  # fmt: skip
    assert "glaucoma" in line
    assert "drusen" in line, "the columns that are there"
    assert not (run_dir / "metrics.jsonl").exists()


@pytest.mark.skipif(torch.cuda.device_count() > 0, reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_told_with_the_way_out(refused, tmp_path):
    line = refused("pretrain", "runtime.device=cuda", f"run_dir={tmp_path / 'run'}")
    assert "no CUDA GPU" in line
    assert "runtime=cpu" in line


def test_a_split_that_holds_everybody_is_told_with_the_way_out(refused, smoke, tmp_path):
    line = refused(
        "pretrain", "experiment=smoke", f"data.root={smoke.data}", f"run_dir={tmp_path / 'run'}",
        "data.excluded_splits=[train,val,test]",
    )  # fmt: skip
    assert "data.excluded_splits=[]" in line


@pytest.mark.slow
def test_a_corrected_mistake_about_the_data_may_use_the_same_run_folder(
    call_app, run_app, on_folder, smoke, tmp_path
):
    short = ("loop.steps=1", "feed.batch_size=2", "watched_volumes=2")
    the_line(run_app("pretrain", *on_folder(tmp_path / "misspelt"), *short))
    outcome = call_app("pretrain", *on_folder(smoke.data), *short)
    assert outcome.code == 0, outcome.errors


def ask(smoke, tmp_path, *overrides):
    return (
        "finetune", "data.phantom.participants=24", "data.phantom.split_fractions=[0.5,0.0,0.5]",
        "data.phantom.eyes=[R,L]", "data.phantom.arrangements=[]",
        f"data.root={smoke.data}", f"encoder={smoke.path / 'encoder'}",
        f"run_dir={tmp_path / 'evaluation'}", *overrides,
    )  # fmt: skip


def test_an_evaluation_without_an_encoder_names_the_place(refused, smoke, tmp_path):
    line = refused(*ask(smoke, tmp_path, f"encoder={tmp_path / 'lost'}"))
    assert str(tmp_path / "lost") in line


def test_an_evaluation_of_an_unknown_column_names_those_there_are(refused, smoke, tmp_path):
    line = refused(*ask(smoke, tmp_path, "task.column=glaucoma"))
    assert "glaucoma" in line
    assert "drusen" in line


def test_an_evaluation_at_another_window_is_refused(refused, smoke, tmp_path):
    line = refused(*ask(smoke, tmp_path, "data.window=macula6"))
    assert "data.window=macula6" in line
    assert "(8, 64, 64)" in line


@pytest.mark.parametrize(
    ("override", "culprits"),
    [
        ("mode=fuller", ["mode (fuller)", "linear"]),
        ("batch_size=-1", ["batch_size (-1) must be 1 or more"]),
        ("grid.folds=-1", ["grid.folds (-1) must be 2 or more, or 0"]),
        ("data.jobs=-1", ["data.jobs (-1) must be 0, for one a CPU, or more"]),
        ("readout.pools=[median]", ["median", "mean_std"]),
        ("predict=scans", ["predict=FOLDER and model=DIR go together"]),
        ("runtime.device=tpu9", ["tpu9", "cuda"]),
        ("task=lost", ["task/lost", "thin"]),
        ("compare.ensemble=vote", ["compare.ensemble (vote)", "seeds=2"]),
        ('compare.encoders=["a=x","a=y"]', ["compare.encoders has a= twice"]),
        ("test_split=exam", ["exam"]),
        ("experiment=lost", ["evaluation/lost", "phantom_lesions"]),
        ("features=s3://b/c", ["features (s3://b/c) must be a local folder"]),
        ("data.label_columns=[fluid]", ["data.label_columns does nothing in finetune", "task."]),
        ("data.excluded_splits=[val]", ["data.excluded_splits", "does nothing", "test_split="]),
    ],
)
def test_a_wrong_setting_of_an_evaluation_is_named(refused, smoke, tmp_path, override, culprits):
    line = refused(*ask(smoke, tmp_path, override))
    for culprit in culprits:
        assert culprit in line


@pytest.mark.parametrize(
    ("override", "culprits"),
    [
        ("compare.baselines=[histogramm]", ["compare.baselines (histogramm)", "thumbnail"]),
        (
            "compare.networks=[resnet50]",
            ["compare.networks (resnet50)", "monai_resnet10", "timm_NAME"],
        ),
        ("compare.prevalence=[0.3]", ["compare.prevalence ([0.3])", "false, true"]),
        ("compare.shortcuts=['@devise']", ["compare.shortcuts (@devise) is no column", "@device"]),
        ("compare.encoders=[RETFound]", ["compare.encoders (RETFound)", "name=MODEL@file"]),
    ],
)
def test_what_cannot_be_compared_is_told_before_anybody_is_asked(
    refused, smoke, tmp_path, override, culprits
):
    line = refused(*ask(smoke, tmp_path, override), after_progress=True)  # and not after `asking`
    for culprit in culprits:
        assert culprit in line


MASKED = "mode=segment data.annotations=[mask] segment.unet=false"


@pytest.mark.parametrize(
    ("overrides", "culprits"),
    [
        ("mode=attentive training.head.heads=7", ["training.head.heads (7)", "width"]),
        (
            "mode=full training.head.kind=cross_attention training.head.inner=10",
            ["training.head.heads (4)", "training.head.inner (10)"],
        ),
        ("mode=full training.head.pool=median", ["training.head.pool (median)", "mean_std"]),
        ("mode=full training.head.pool=cls", ["training.head.pool (cls)"]),
        ("mode=lora training.lora.rank=0", ["lora.rank (0)"]),
        ("mode=lora training.lora.rank=5000", ["training.lora.rank (5000)", "width"]),
        (f"{MASKED} training.decoder.levels=[99]", ["training.decoder.levels ([99])", "0 to"]),
        (f"{MASKED} training.decoder.levels=[1,0]", ["training.decoder.levels ([1, 0])"]),
        (f"{MASKED} compare.networks=[a]", ["compare.networks does nothing"]),
        (
            "mode=patches data.annotations=[mask] compare.perturbed=true",
            ["compare.perturbed does nothing", "for labels"],
        ),
        (f"{MASKED} compare.together=false", ["compare.together does nothing"]),
        (f"{MASKED} join=max", ["join does nothing"]),
        (f"{MASKED} tracking=wandb", ["tracking does nothing"]),
        ("mode=patches data.annotations=[mask] segment.blocks=[99]", ["segment.blocks ([99])"]),
        ("mode=full join=attention", ["join=attention takes frozen features; mode is full"]),
        (
            "mode=full training.augmentation.shift=[99,99,99]",
            ["training.augmentation.shift ((99, 99, 99))", "half of the volume"],
        ),
        ("mode=full training.augmentation.gain=1.5", ["augmentation.gain (1.5)"]),
        ("mode=full training.grid.depths=[1]", ["training.grid is tried by mode=attentive"]),
        ("mode=attentive training.grid.blocks=[99]", ["training.grid.blocks (99)", "below"]),
        ("mode=attentive training.grid.blocks=[early]", ["training.grid.blocks (early)", "late"]),
        (
            "mode=attentive training.grid.depths=[1] training.label_smoothing=0.1",
            ["training.label_smoothing (0.1) does nothing beside training.grid"],
        ),
    ],
)
def test_what_the_encoder_does_not_bear_is_told_before_a_volume_is_read(
    refused, smoke, tmp_path, overrides, culprits
):
    line = refused(*ask(smoke, tmp_path, *overrides.split()))
    for culprit in culprits:
        assert culprit in line
    assert not (tmp_path / "evaluation").exists()


@pytest.mark.parametrize(
    ("overrides", "culprits"),
    [
        ("mode=full training.metric=aurocc", ["training.metric (aurocc)", "auroc"]),
        ("mode=full training.class_weights=[1,2,3]", ["training.class_weights", "false, true"]),
        ("mode=lora training.accumulate=99", ["training.accumulate (1 x 99)"]),
        (
            "mode=full task.column=age task.kind=regression training.label_smoothing=0.1",
            ["training.label_smoothing (0.1) must be 0", "regression"],
        ),
    ],
)
def test_a_recipe_that_does_not_suit_the_question_is_told_before_anything_is_trained(
    refused, smoke, tmp_path, overrides, culprits
):
    line = refused(*ask(smoke, tmp_path, *overrides.split()), after_progress=True)
    for culprit in culprits:
        assert culprit in line
    assert not (tmp_path / "evaluation" / "training").exists()


@pytest.mark.parametrize(
    ("overrides", "package", "otherwise"),
    [
        ("compare.networks=[monai_resnet10]", "monai", "compare.networks=[]"),
        ("compare.networks=[timm_resnet18]", "timm", "compare.networks=[]"),
        ("mode=segment data.annotations=[mask]", "monai", "segment.unet=false"),
        ("mode=lora", "peft", "another mode"),
    ],
)
def test_a_package_that_is_not_there_is_told_before_a_volume_is_read(
    refused, smoke, tmp_path, monkeypatch, overrides, package, otherwise
):
    monkeypatch.setitem(sys.modules, package, None)  # as Python finds what is not installed
    line = refused(*ask(smoke, tmp_path, *overrides.split()))
    assert f"{package} is not installed" in line
    assert otherwise in line


def test_an_evaluation_of_a_class_that_only_one_side_has_says_so(refused, smoke, tmp_path):
    table = oct_io.read_participants(smoke.data)
    rows = [f"{key},{row['recommended_split']}" for key, row in table.items()]
    labels = tmp_path / "labels.csv"
    labels.write_text("participant_id,recommended_split,seen\n" + "\n".join(
        f"{row},{int(number % 2 and row.endswith('train'))}" for number, row in enumerate(rows)
    ))  # fmt: skip
    question = ask(smoke, tmp_path, f"data.labels={labels}", "task.column=seen")
    line = refused(*question, after_progress=True)
    assert "class" in line


def test_a_label_table_of_other_people_says_what_ids_look_like_on_both_sides(
    refused, smoke, tmp_path
):
    labels = tmp_path / "labels.csv"
    labels.write_text("participant_id,ill\nP-001,0\nP-002,1\nP-003,0\nP-004,1\n")
    question = ask(smoke, tmp_path, f"data.labels={labels}", "task.column=ill")
    line = refused(*question, after_progress=True)
    assert "P-001" not in line, "ids of patients are not repeated"
    assert "digits" in line


def test_a_table_with_one_class_alone_names_it(refused, smoke, tmp_path):
    table = oct_io.read_participants(smoke.data)
    labels = tmp_path / "labels.csv"
    rows = [f"{key},{row['recommended_split']},no" for key, row in table.items()]
    labels.write_text("participant_id,recommended_split,ill\n" + "\n".join(rows) + "\n")
    question = ask(smoke, tmp_path, f"data.labels={labels}", "task.column=ill")
    line = refused(*question, after_progress=True)
    assert "one class only: ['false']" in line
