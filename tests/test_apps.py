"""One real pretraining run and one real evaluation, from the command line to the last file."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import oct_io
import pytest
from oct_io.labels.splits import Split, write_split
from oct_io.scan.flags import FLAGS
from oct_judge.touches import LEDGER
from oct_vjepa import Encoder
from safetensors import safe_open
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow

COLUMNS = {
    "step", "epoch", "loss", "lr", "momentum", "grad_norm", "target_std", "volumes_per_s",
    "compilations",
}  # fmt: skip
ROOT = Path(__file__).parent.parent
RUN = {
    "config.yaml", "provenance.json", "metrics.jsonl", "checkpoints", "encoder",
    "quarantine.jsonl", "probes.json", "report.html",
}  # fmt: skip
LABELS = ("thin", "fluid", "drusen")
EVALUATION = {
    "config.yaml", "provenance.json", "results.json", "predictions.csv", "predictions.parquet",
    "model", "embedding.npz", "cases.npz", "report.html",
}  # fmt: skip
BASELINES = ("grey histogram", "axial profile")


def visible(folder):
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def people(data):
    return oct_io.read_participants(data)


def outside_links(page):
    """Targets of src and href that are not inside the page."""
    targets = re.findall(r"(?:src|href|action)\s*=\s*[\"']?([^\"' >]*)", page)
    return [one for one in targets if not one.startswith(("data:", "#"))]


@pytest.fixture(scope="module")
def evaluation(place, smoke, run_app):
    run_dir = place / "evaluation"
    command = (
        "finetune", f"encoder={smoke.path / 'encoder'}", f"data.root={smoke.data}",
        "data.phantom.participants=24", "data.phantom.split_fractions=[0.5,0.0,0.5]",
        "data.phantom.eyes=[R,L]", "data.phantom.arrangements=[]",
        f"run_dir={run_dir}", "bootstrap=200", f"compare.baselines=[{','.join(BASELINES)}]",
        "compare.maps=1",
    )  # fmt: skip
    outcome = run_app(*command)
    assert outcome.code == 0, outcome.errors
    return run_dir, command


def test_a_run_leaves_exactly_the_files_that_the_design_lists(smoke):
    assert visible(smoke.path) == RUN
    steps = sorted(path.name for path in (smoke.path / "checkpoints").iterdir())
    assert steps == ["step-00000008", "step-00000012"], "keep_last=2"
    assert visible(smoke.path / "encoder") == {"config.json", "model.safetensors"}
    assert (smoke.path / "quarantine.jsonl").read_text() == "", "no phantom is refused"


def test_a_run_writes_nowhere_but_in_its_folder_its_data_its_cache_and_its_features(place, smoke):
    assert smoke.path.parent == place
    assert not [path for path in visible(place) if path in ("outputs", "runs", "multirun")]


def test_every_row_of_metrics_says_what_the_design_promises(smoke):
    assert [row["step"] for row in smoke.rows] == list(range(1, 13))
    assert all(row.keys() >= COLUMNS for row in smoke.rows)
    ranked = [row["step"] for row in smoke.rows if "effective_rank" in row]
    assert ranked == [4, 8, 12], "loop.evaluate_every=4"
    probed = [row for row in smoke.rows if "probe_linear_auroc_thin" in row]
    assert [row["step"] for row in probed] == [4, 8, 12]
    assert all(0 <= row[f"probe_knn_auroc_{name}"] <= 1 for row in probed for name in LABELS)
    assert all(row["loss"] > 0 and row["target_std"] > 0.1 for row in smoke.rows)
    assert {row["epoch"] for row in smoke.rows} == {0, 1, 2, 3}
    assert smoke.rows[0]["momentum"] < smoke.rows[-1]["momentum"] < 1


def test_the_encoder_loads_alone_and_holds_nothing_but_tensors(smoke):
    encoder = Encoder.from_pretrained(smoke.path / "encoder")
    assert encoder.config.input_mean != 128, "measured on the training volumes"
    with safe_open(smoke.path / "encoder" / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(encoder.state_dict())


def test_no_file_of_a_run_is_a_pickle(smoke):
    files = [path for path in smoke.path.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".pt", ".pth", ".pkl", ".bin", ".ckpt")]
    assert not [path for path in files if path.read_bytes()[:2] in (b"\x80\x02", b"PK")]


def test_the_report_is_one_page_that_needs_nothing_from_outside(smoke):
    page = (smoke.path / "report.html").read_text()
    assert not outside_links(page)
    assert not re.search(r"<script|<link|<iframe|@import|url\(", page)
    assert page.count("data:image/png;base64,") == 4, "curves, probes, masks and features"
    assert "made up" in page, "phantom results say phantom"
    for named in ("pretrained", "random init", "grey histogram", *LABELS):
        assert named in page
    assert page.count("Both eyes of 24 participants are here, left ones not mirrored") == 1
    assert smoke.outcome.out.count("both eyes of 24 participants are here") == 1


def test_participants_of_the_test_split_take_no_part_and_are_recorded_as_hashes(smoke):
    facts = json.loads((smoke.path / "provenance.json").read_text())
    table = people(smoke.data)
    test = {key for key, row in table.items() if row["recommended_split"] == "test"}
    assert set(facts["excluded_participants"]) == {oct_io.hash_participant(key) for key in test}
    assert facts["excluded_splits"] == ["test"]
    assert facts["volumes"] == 2 * len(table)
    assert facts["volumes_in_training"] == 2 * (len(table) - len(test)) > 0
    assert facts["made_up_data"] is True
    assert facts["scans_left_out_for_flags"] == 0, "data.flags names none"
    assert set(facts["scans_by_flag"]) <= set(FLAGS)
    for key in ("git_commit", "versions", "device", "world_size", "seed", "dataset_fingerprint"):
        assert key in facts


def test_a_run_ends_with_what_finetune_says_of_its_encoder(smoke, evaluation):
    run_dir, _ = evaluation
    (said,) = (
        one
        for one in json.loads((smoke.path / "probes.json").read_text())
        if one["question"]["name"] == "thin"
    )
    again = json.loads((run_dir / "results.json").read_text())
    assert said["question"] == again["question"]
    found = {one["name"]: one for one in said["candidates"]}
    for one in again["candidates"]:
        if one["name"] in found:
            mine = found[one["name"]]
            assert mine["card"]["metrics"]["auroc"][0] == one["card"]["metrics"]["auroc"][0]
            assert mine["chosen"] == one["chosen"]
    assert {"pretrained", "random init"} <= found.keys()


def test_the_end_of_a_run_and_the_evaluation_that_repeats_its_question_are_one_look(
    place, smoke, evaluation
):
    looks = []
    for folder in (place / "kept", place / "runs" / "data"):
        lines = (folder / LEDGER).read_text().splitlines()
        looks.append({(one["question"], one["settings"]) for one in map(json.loads, lines)})
    assert len({question for question, _ in looks[0]}) == len(looks[0]) == 3, "a label is its own"
    assert looks[0] & looks[1]


@pytest.mark.slow
def test_of_two_processes_one_asks_when_the_group_is_left(place, smoke):
    run_dir = place / "two-processes"
    told = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(ROOT / "apps/pretrain/__main__.py", "experiment=smoke", "loop.steps=2"),
            *("runtime=cpu", "loop.evaluate_every=0", f"run_dir={run_dir}"),
            *("probe.columns=[thin]", "probe.baselines=[]", "probe.bootstrap=100"),
            *(f"data.root={smoke.data}", f"probe.features={place / 'kept' / 'features'}"),
        ],
        cwd=place, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, timeout=300,
        capture_output=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    asked = json.loads((run_dir / "probes.json").read_text())
    assert [one["question"]["name"] for one in asked] == ["thin"]


def test_nothing_a_run_tells_names_a_participant_or_the_place_of_a_scan(smoke, evaluation):
    run_dir, _ = evaluation
    ids, scans = list(people(smoke.data)), [one.path for one in oct_io.read_manifest(smoke.data)]
    assert len(ids) == 24
    told = [
        smoke.path / name
        for name in ("metrics.jsonl", "provenance.json", "probes.json", "report.html")
    ]
    told += [run_dir / name for name in ("results.json", "predictions.csv", "report.html")]
    texts = {path: re.sub(r"base64,[^\"]*", "", path.read_text()) for path in told}
    texts["terminal"] = smoke.outcome.out + smoke.outcome.errors
    for path, text in texts.items():
        words = set(re.findall(r"\w+", text))
        assert not words & set(ids), path
        assert not any(scan in text or scan.rsplit("/", 1)[-1] in text for scan in scans), path
    for name in ("metrics.jsonl", "provenance.json"):
        assert str(smoke.data) not in (smoke.path / name).read_text()


@pytest.fixture(scope="module")
def repeated(place, smoke, call_app):
    """The smoke run, repeated from its own config.yaml in a folder of its own."""
    command = (
        "pretrain", "--config-dir", smoke.path, "--config-name", "config",
        f"run_dir={place / 'repeated'}", "probe.columns=[]",
    )  # fmt: skip
    outcome = call_app(*command)
    assert outcome.code == 0, outcome.errors
    return place / "repeated", command


def test_feeding_the_configuration_back_repeats_the_run(smoke, repeated):
    run_dir, _ = repeated
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows] == [row["loss"] for row in smoke.rows]
    weights = [one / "encoder" / "model.safetensors" for one in (smoke.path, run_dir)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_run_without_label_columns_says_that_nothing_was_probed(repeated):
    assert "No labels were named" in (repeated[0] / "report.html").read_text()


def test_a_run_may_start_from_an_encoder_and_goes_on_after_it_is_stopped(place, smoke, call_app):
    weights, run_dir = smoke.path / "encoder", place / "continued"
    command = (
        "pretrain", "experiment=smoke", f"run_dir={run_dir}", f"data.root={smoke.data}",
        f"initial={weights}", "probe.columns=[]", "loop.evaluate_every=0", "loop.steps=4",
        "loop.checkpoint_every=2", "seed=1",
    )  # fmt: skip
    assert call_app(*command).code == 0
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    started, ended = (
        load_file(one / "model.safetensors") for one in (weights, run_dir / "encoder")
    )
    # Four steps move a weight by less than 0.01; random ones of this seed are farther away.
    assert all(np.abs(ended[name] - value).max() < 0.01 for name, value in started.items())
    facts = json.loads((run_dir / "provenance.json").read_text())
    assert facts["initial"]["weights"] == str(weights)
    assert re.fullmatch("[0-9a-f]{16}", facts["initial"]["fingerprint"])
    assert "initial" in (run_dir / "report.html").read_text()
    before = json.loads((smoke.path / "provenance.json").read_text())
    assert facts["participants_seen_before"] == before["participants_in_training"]
    shutil.rmtree(run_dir / "checkpoints" / "step-00000004")  # as if it had been stopped before
    before = (run_dir / "encoder" / "model.safetensors").read_bytes()
    assert call_app(*command).code == 0
    again = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in again] == [row["loss"] for row in rows]
    assert (run_dir / "encoder" / "model.safetensors").read_bytes() == before


def test_a_split_that_was_changed_in_its_file_is_not_taken_up_by_the_run(place, smoke, call_app):
    people = json.loads((smoke.path / "provenance.json").read_text())
    sides = people["participants_in_training"], people["excluded_participants"]
    split, run_dir = place / "split.tsv", place / "changed-split"
    command = (
        "pretrain", "experiment=smoke", f"data.root={smoke.data}", f"data.split={split}",
        f"run_dir={run_dir}", "loop.evaluate_every=0", "loop.steps=1", "probe.columns=[]",
    )  # fmt: skip

    def divide(train, test):
        parts = {"train": frozenset(train), "test": frozenset(test)}
        write_split(split, Split(parts=parts, rule="mine"))
        return call_app(*command)

    assert divide(*sides).code == 0
    assert divide(*sides).code == 0
    before = (run_dir / "provenance.json").read_bytes()
    outcome = divide(*reversed(sides))
    assert outcome.code == 2
    assert "has learned from 12 participants; now 12 others would be added and 12" in outcome.errors
    assert (run_dir / "provenance.json").read_bytes() == before
    assert json.loads(before)["participants_in_training"] == sides[0]


def test_a_start_that_is_refused_for_its_volumes_puts_nothing_on_record(place, smoke, call_app):
    run_dir, fewer = place / "of-all", place / "fewer"
    command = (
        "pretrain", "experiment=smoke", f"run_dir={run_dir}", "loop.evaluate_every=0",
        "loop.steps=1", "probe.columns=[]",
    )  # fmt: skip
    first = call_app(*command, f"data.root={smoke.data}")
    assert first.code == 0, first.errors
    files = [run_dir / name for name in ("provenance.json", "quarantine.jsonl")]
    before = [path.read_bytes() for path in files]
    shutil.copytree(smoke.data, fewer)
    table = fewer / "retinal_oct" / "manifest.tsv"
    *rows, last = table.read_text().splitlines(keepends=True)
    table.write_text("".join(rows))
    (scan,) = fewer.rglob(Path(next(one for one in last.split("\t") if ".dcm" in one)).name)
    scan.write_bytes(b"no scan")
    refused = call_app(*command, f"data.root={fewer}")
    assert refused.code == 2
    assert "made with data = " in refused.errors
    assert [path.read_bytes() for path in files] == before


def test_who_was_seen_before_a_run_is_not_tested_after_it(place, smoke, call_app):
    data = f"data.root={smoke.data}"
    base = "pretrain", "experiment=smoke", data, "loop.evaluate_every=0", "loop.steps=1"
    all_of_them, rest = place / "saw-everybody", place / "saw-the-rest"
    first = call_app(*base, f"run_dir={all_of_them}", "data.excluded_splits=[]", "probe.columns=[]")
    assert first.code == 0, first.errors
    second = call_app(
        *base, f"run_dir={rest}", f"initial={all_of_them / 'encoder'}", "probe.columns=[]"
    )
    assert second.code == 0, second.errors
    remark = "12 of 12 participants that are left out were seen by the run that this one begins"
    assert remark in second.errors
    assert remark in (rest / "report.html").read_text()
    asked = call_app(
        "finetune", "experiment=smoke", data, f"encoder={rest / 'encoder'}",
        f"run_dir={place / 'asked-the-rest'}",
    )  # fmt: skip
    assert asked.code == 2
    assert "12 of 12 test participants took part in pretraining this encoder" in asked.errors


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("encoder.depth=3", "was made with encoder.depth=4, and this run has 3"),
        ("initial=nowhere", "nowhere"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(place, smoke, call_app, change, says):
    outcome = call_app(
        "pretrain", "experiment=smoke", f"run_dir={place / 'refused'}", f"data.root={smoke.data}",
        *([f"initial={smoke.path / 'encoder'}"] if "initial" not in change else []), change,
    )  # fmt: skip
    assert outcome.code == 2
    assert says in outcome.errors
    assert len(outcome.error_lines) == 1
    assert not (place / "refused").exists()


def test_the_same_command_again_has_nothing_left_to_do(repeated, call_app):
    run_dir, command = repeated
    files = [run_dir / "metrics.jsonl", run_dir / "encoder" / "model.safetensors"]
    before = [path.read_bytes() for path in files]
    outcome = call_app(*command)
    assert outcome.code == 0, outcome.errors
    assert [path.read_bytes() for path in files] == before
    facts = json.loads((run_dir / "provenance.json").read_text())
    assert len(facts["earlier"]) == 1


def test_an_evaluation_leaves_results_predictions_a_model_and_a_page(smoke, evaluation):
    run_dir, _ = evaluation
    assert visible(run_dir) == EVALUATION
    document = json.loads((run_dir / "results.json").read_text())
    assert document["made_up_data"] is True
    assert [one["name"] for one in document["candidates"]] == [
        "pretrained", "majority class", "random init", *BASELINES,
        *(f"pretrained + {one}" for one in BASELINES),
        *(f"{one}, grey ranks" for one in ("pretrained", "random init", *BASELINES)),
    ]  # fmt: skip
    for one in document["candidates"]:
        for metric in ("auroc", "balanced_accuracy"):
            value, low, high = one["card"]["metrics"][metric]
            assert 0 <= low <= value <= high <= 1
    with (run_dir / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    test = [key for key, row in people(smoke.data).items() if row["recommended_split"] == "test"]
    assert {row["participant"] for row in rows} == {oct_io.hash_participant(key) for key in test}
    chances = [[float(cell) for name, cell in row.items() if name[:2] == "p_"] for row in rows]
    assert all(len(one) == 2 and abs(sum(one) - 1) < 1e-5 for one in chances)
    page = (run_dir / "report.html").read_text()
    assert not outside_links(page)
    assert "made up" in page


def test_the_same_evaluation_again_gives_the_same_results(evaluation, call_app):
    run_dir, command = evaluation
    before = [(run_dir / name).read_bytes() for name in ("results.json", "predictions.csv")]
    outcome = call_app(*command)
    assert outcome.code == 0, outcome.errors
    after = [(run_dir / name).read_bytes() for name in ("results.json", "predictions.csv")]
    assert after == before


def test_a_sweep_leaves_a_folder_a_task_one_table_and_features_of_its_precision(
    place, smoke, evaluation, run_app
):
    _, command = evaluation
    asked = [one for one in command[1:] if not one.startswith(("run_dir=", "compare.baselines="))]
    outcome = run_app(
        "finetune", "-m", *asked, "task=thin,fluid", f"run_dir={place / 'asked'}",
        "runtime.precision=bf16", "compare.baselines=[]",
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    for task in ("thin", "fluid"):
        assert visible(place / "asked" / f"task={task}") == EVALUATION
        document = json.loads((place / "asked" / f"task={task}" / "results.json").read_text())
        assert document["question"]["name"] == task
    jobs = json.loads((place / "asked" / "sweep.json").read_text())["jobs"]
    assert [job["exit_code"] for job in jobs] == [0, 0]
    assert all(job["headline"].keys() == {"question", "AUROC", "over random init"} for job in jobs)
    features = place / "runs" / "data" / "features"
    exact = {path.name: load_file(path)["mean"] for path in features.glob("*.safetensors")}
    rough = {path.name: load_file(path)["mean"] for path in features.glob("bf16/*.safetensors")}
    assert exact.keys() >= rough.keys() != set()
    for name, values in rough.items():
        away = np.abs(values - exact[name]).max()
        assert 1e-4 < away < 0.2, "rounded, and no other features"
