"""How the apps start and end: settings, the head of config.yaml, and what a mistake becomes."""

import errno
import signal
import time
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from oct_io import PhantomTree, SourceConfig
from oct_judge.question import FinetuneConfig
from oct_launch import (
    Launch,
    Mistake,
    RuntimeConfig,
    Stages,
    check_window,
    console,
    exit_codes,
    mistakes,
    print_table,
)
from oct_launch.arguments import open_settings
from oct_launch.console import one_line
from oct_launch.settings import field_texts
from oct_vjepa import EncoderConfig, MaskSetConfig, ScheduleConfig
from oct_vjepa.objectives.configuration import JepaConfig
from oct_vjepa.presets.choices import ENCODERS, MASKINGS, OBJECTIVES
from oct_vjepa.presets.runs import PRESETS
from oct_xla import FeedConfig, LoopConfig, RunFolderError
from oct_xla.folder.runfolder import flatten
from omegaconf import OmegaConf

ROOT = Path(__file__).parent.parent


@pytest.fixture
def launch(tmp_path):
    return Launch("pretrain", OmegaConf.create({"run_dir": str(tmp_path / "run"), "seed": 3}))


def test_a_claimed_folder_keeps_the_settings_and_the_command_that_repeats_them(launch, tmp_path):
    run = launch.claim_run_folder("the run", groups=("objective: vjepa2_schema",))
    run.release()
    text = (tmp_path / "run" / "config.yaml").read_text()
    assert text.startswith("# Repeats the run: uv run apps/pretrain --config-dir THIS_FOLDER ")
    content = yaml.safe_load(text)
    assert content["defaults"] == [
        "pretrain_schema", {"objective": "vjepa2_schema"}, "_self_",
        {"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"},
    ]  # fmt: skip
    assert content["hydra"] == {"run": {"dir": "."}, "output_subdir": None}
    assert content["seed"] == 3


def test_a_setting_that_may_change_does_not_refuse_a_folder_and_another_does(launch, tmp_path):
    launch.claim_run_folder("the run").release()
    (tmp_path / "run" / "metrics.jsonl").write_text("")  # it has begun
    other = Launch("pretrain", OmegaConf.merge(launch.settings, {"seed": 4}))
    with pytest.raises(RunFolderError, match="seed was 3, now 4"):
        other.claim_run_folder("the run")
    other.claim_run_folder("the run", may_change=("seed",)).release()


def test_a_runtime_is_the_one_that_its_settings_name():
    runtime = RuntimeConfig(device="cpu", precision="bf16").pick()
    assert (runtime.device.type, runtime.precision) == ("cpu", "bf16")
    runtime.close()


def test_a_window_of_another_shape_is_refused_with_both_shapes():
    check_window("tiny", (8, 64, 64), otherwise="never said")
    with pytest.raises(ValueError, match=r"data.window=tiny .*\(8, 64, 64\), but it takes less"):
        check_window("tiny", (8, 64, 32), otherwise="it takes less")


def read(page):
    return " ".join(page.split())


@pytest.mark.parametrize("app", ["pretrain", "finetune"])
def test_help_shows_every_setting_with_its_value_and_its_text(call_app, app):
    shown = call_app(app, "--help")
    assert shown.code == 0, shown.errors
    page, out = read(shown.out), call_app(app, "--cfg", "job").out
    tree = OmegaConf.create(out)
    keys = list(flatten(OmegaConf.to_container(tree, resolve=True)))
    assert "data.storage.region" in keys
    for key in keys:
        assert f"{key} = " in page, key
    kinds = [SourceConfig, PhantomTree, RuntimeConfig]
    if app == "pretrain":
        kinds += [EncoderConfig, FeedConfig, LoopConfig, JepaConfig, MaskSetConfig]
        kinds += [ScheduleConfig]
    for kind in kinds:
        texts = field_texts(kind)
        assert texts.keys() == {field.name for field in fields(kind)}
        assert [text for text in texts.values() if read(text) not in page] == []
    assert "data.window = tiny What is cut out of each scan" in page


@pytest.mark.slow
def test_help_that_is_read_to_its_first_lines_alone_is_no_error(start):
    process = start("finetune", "--help")
    process.stdout.close()  # before there is anything to write, as `head -0` does
    assert process.wait(timeout=120) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux says what is loaded")
@pytest.mark.parametrize("app", ["pretrain", "finetune"])
def test_ctrl_c_while_an_app_is_being_read_ends_it_without_a_word(start, app):
    process = start(app, "experiment=smoke")
    while "numpy" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (-signal.SIGINT, "")


def test_help_shows_the_values_that_the_command_line_chooses(call_app):
    page = read(call_app("pretrain", "--help", "objective=vjepa21", "loop.steps=7").out)
    assert "loop.steps = 7 Optimiser steps" in page
    assert "objective.levels = 4 Blocks 2, 5, 8 and 11 of 12" in page
    assert "objective.ema_start = 0.99925 Teacher momentum" in page, "inherited"


def test_help_lists_groups_and_experiments_with_what_each_file_says_of_itself(call_app):
    page = call_app("pretrain", "--help").out
    assert "encoder  (unless told otherwise: cpu_smoke)" in page
    for path in (ROOT / "configs" / "experiment").glob("*.yaml"):
        assert f"    {path.stem} " in page
    assert "Does everything still fit together?" in page
    for group in (ENCODERS, MASKINGS, OBJECTIVES, PRESETS):
        assert all(f"    {name} " in page for name in group)
    assert ENCODERS["base"].about in page
    assert "@package" not in page


def test_a_setting_that_is_not_read_is_refused_where_the_command_line_gives_it(launch):
    launch.refuse_unread("data.label_columns", "task.column=NAME")
    given = Launch("finetune", launch.settings, ("+data.label_columns=[a]",))
    with pytest.raises(Mistake, match=r"data\.label_columns does nothing in finetune; task"):
        given.refuse_unread("data.label_columns", "task.column=NAME")


def test_a_run_folder_in_a_bucket_is_claimed_with_its_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    launch = Launch("pretrain", OmegaConf.create({"run_dir": f"file://{tmp_path}/bucket/run"}))
    with launch.claim_run_folder("the run") as folder:
        assert folder.name_of(folder.path / "report.html").startswith("file:///")
    assert "run_dir: file://" in (tmp_path / "bucket/run/config.yaml").read_text()
    assert not (tmp_path / "file:").exists()


def test_a_mistake_is_one_line_on_stderr_and_code_two(capsys):
    with pytest.raises(SystemExit) as end, exit_codes(KeyError):
        raise Mistake("no such folder:\n  set data.root")
    assert end.value.code == 2
    assert capsys.readouterr() == ("", "error: no such folder: set data.root\n")


def test_errors_that_an_app_names_are_mistakes_too(capsys):
    with pytest.raises(SystemExit) as end, exit_codes(OSError):
        raise FileNotFoundError("gone")
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: gone\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            OSError(errno.ENOSPC, "", "runs/x/results.json"),
            2,
            "error: runs/x/results.json: No space left on device; free space, then give the same "
            "command again",
        ),
        (
            OSError(errno.EROFS, ""),
            2,
            "error: Read-only file system; let it be used, or name another place, then give the "
            "same command again",
        ),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from what is whole"),
    ],
    ids=["full", "read-only", "Ctrl-C"],
)
def test_a_disk_that_takes_nothing_and_ctrl_c_are_one_line(error, code, line, capsys):
    with pytest.raises(SystemExit) as ended, exit_codes():
        raise error
    assert ended.value.code == code
    assert capsys.readouterr().err == f"{line}\n"


def test_errors_that_have_a_name_only_after_a_run_are_asked_for_once_there_is_one(capsys):
    asked = []

    def known():
        asked.append(1)
        return (ValueError,)

    with exit_codes(known=known):
        pass
    assert not asked
    with pytest.raises(SystemExit) as end, exit_codes(known=known):
        raise ValueError("no such device")
    assert (end.value.code, asked) == (2, [1])
    assert capsys.readouterr().err == "error: no such device\n"


def test_any_other_error_is_ours_and_keeps_its_traceback(capsys):
    with pytest.raises(ZeroDivisionError), exit_codes(OSError):
        raise ZeroDivisionError
    assert capsys.readouterr().err == ""


def test_what_checks_the_users_wishes_turns_its_errors_into_mistakes_and_keeps_the_cause():
    with pytest.raises(Mistake, match=r"heads \(5\)") as caught, mistakes(ValueError):
        raise ValueError("heads (5) must divide")
    assert isinstance(caught.value.__cause__, ValueError)


def test_one_line_names_the_argument_that_could_not_be_read():
    error = ValueError("mismatched input")
    error.override = "a=3=4"
    assert one_line(error) == "a=3=4: mismatched input"


def test_one_line_drops_what_configuration_errors_append_and_what_moves_a_cursor():
    error = ValueError("Value 'wide' is no int\n    full_key: encoder.width\n    object_type=X")
    assert one_line(error) == "Value 'wide' is no int"
    assert one_line(ValueError("a\x1b[2Jb")) == "a[2Jb"


def test_a_table_is_never_broken_into_eighty_columns(capsys):
    print_table(("label", "AUROC", "over reference"), [("thin", "0.9" * 15, "0.2" * 15)])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_name_of_the_users_own_needs_no_plus(call_app):
    told = call_app(
        "pretrain", "--cfg", "job", "mixture.by=@eye", "mixture.weights={R: 3}",
        "+mixture.weights.L=2",
    )  # fmt: skip
    assert told.code == 0, told.errors
    assert yaml.safe_load(told.out)["mixture"] == {"by": "@eye", "weights": {"R": 3.0, "L": 2.0}}


def test_an_objective_alone_on_the_command_line_has_its_own_masks_and_no_others(call_app):
    for given, kinds in (
        (["objective=vjepa2_smoke"], ["blocks", "blocks"]),
        (["objective=vjepa2_smoke", "masking=mae"], ["patches"]),
        (["loop.steps=7"], ["patches"]),
    ):
        told = call_app("pretrain", *given, "--cfg", "job")
        assert told.code == 0, told.errors
        assert [one["kind"] for one in yaml.safe_load(told.out)["masking"]["sets"]] == kinds


@pytest.mark.parametrize("where", [0, 2])
def test_an_encoder_that_is_chosen_for_the_data_stands_beside_any_flag(call_app, where):
    given = ["data=bscans", "data.root=/nowhere"]
    told = call_app("pretrain", *given[:where], "--cfg", "job", *given[where:])
    assert told.code == 0, told.errors
    assert yaml.safe_load(told.out)["encoder"]["input_shape"][0] == 1


def test_stages_print_few_lines_where_there_is_no_terminal(capsys):
    with Stages() as stages:
        for done in range(1, 1001):
            stages("resampling scans", done, 1000)
        stages.say("done")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "resampling scans: 1 of 1000"
    assert "resampling scans: 1000 of 1000" in lines
    assert lines[-1] == "done"
    assert len(lines) < 10


def test_a_slow_stage_has_a_line_each_half_minute(capsys, monkeypatch):
    clock = iter(range(0, 1000, 16))
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with Stages() as stages:
        for done in range(9):
            stages("asking", done, 90)
    assert capsys.readouterr().err.splitlines() == [
        f"asking: {done} of 90" for done in (0, 2, 4, 6, 8)
    ]


def test_what_has_keys_of_the_users_own_takes_them_as_any_setting_takes_its_value():
    given = [
        *("data.bscans.eye_words={izq: L}", "data.bscans.eye_words.izq=L", "data.bscans.table=x"),
        *("++data.bscans.eye_words={}", "data={a: 1}", "-m"),
    ]
    assert open_settings(given, FinetuneConfig) == [f"++{one}" for one in given[:2]] + given[2:]
