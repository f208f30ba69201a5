"""Runs of one question are ranked; runs of different ones are refused in a line."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from oct_vjepa.boards.entries import make_entries, short_names
from oct_vjepa.boards.page import page_of, table_of, write_board
from oct_vjepa.boards.runs import BoardError, find_runs, read_run
from oct_vjepa.boards.standings import make_board, rank_samples
from oct_vjepa.boards.tracked import fetch_project
from oct_vjepa.cli import main

PEOPLE = 60


def answers(people=PEOPLE):
    return np.arange(people) % 2


def predict(skill, seed, people=PEOPLE):
    """Probabilities of two classes that know the answer as well as `skill` says."""
    noise = np.random.default_rng(seed).normal(size=people)
    second = 1 / (1 + np.exp(-(skill * (2 * answers(people) - 1) + noise)))
    return np.stack([1 - second, second], axis=1)


def write_run(
    folder,
    skill,
    *,
    seed=1,
    encoder="runs/a/encoder",
    mode="linear",
    question="thin",
    kind="nominal",
    people=PEOPLE,
    turned=0,
    luck=None,
    **more,
):
    """A run folder as finetune leaves one, with a baseline that all runs share."""
    folder.mkdir(parents=True)
    truth = answers(people).copy()
    truth[:turned] = 1 - truth[:turned]
    blocks = []
    candidates = {
        "pretrained": predict(skill, seed if luck is None else luck, people),
        "thumbnail": predict(0.3, 900 + seed, people),
        "pretrained + thumbnail": predict(skill, seed, people),
        "thumbnail, grey ranks": predict(0.1, seed, people),
    }
    for candidate, scores in candidates.items():
        for part in ("test", "validation"):
            blocks.append(
                pa.table(
                    {
                        "candidate": [candidate] * people,
                        "seed": [seed] * people,
                        "round": ["test"] * people,
                        "part": [part] * people,
                        "participant": [f"{part}{one:03}" for one in range(people)],
                        "answer": truth.astype(float),
                        "p_no": scores[:, 0],
                        "p_yes": scores[:, 1],
                        "decided_p_no": scores[::-1, 0],
                        "decided_p_yes": scores[::-1, 1],
                    }
                )
            )
    pq.write_table(pa.concat_tables(blocks), folder / "predictions.parquet")
    document = {
        "format": 2,
        "made_up_data": True,
        "question": {"name": question, "kind": kind, "names": ["no", "yes"], "unit": ""},
        "entry": {
            "encoder": encoder,
            "fingerprint": f"{encoder}-weights",
            "settings": {"mode": mode, "seed": str(seed), "seeds": "1", "join": "mean"} | more,
        },
    }
    (folder / "results.json").write_text(json.dumps(document))
    return folder


def board_of(*folders, **settings):
    return make_board([read_run(one) for one in folders], bootstrap=200, **settings)


def test_entries_are_ranked_by_what_they_know(tmp_path):
    skills = {"weak": 0.2, "strong": 2.5, "middle": 1.0}
    folders = [
        write_run(tmp_path / name, skill, encoder=f"runs/{name}/encoder")
        for name, skill in skills.items()
    ]
    board = board_of(*folders)
    own = [one for one in board.standings if not one.entry.shared]
    assert [one.entry.name for one in own] == ["strong", "middle", "weak"]
    assert [one.rank for one in board.standings] == [1, 2, 3, 4]
    best, last = own[0], own[-1]
    assert (best.rank_low, best.rank_high) == (1, 1)
    assert last.rank_low >= 3, "it never beats the middle one"
    assert best.to_best is None
    assert last.to_best.difference.high < 0
    assert last.to_best.p_holm < 0.05
    assert last.to_best.p <= last.to_best.p_holm


def test_runs_that_differ_by_their_seed_alone_are_one_entry(tmp_path):
    folders = [
        write_run(tmp_path / f"{mode}{seed}", 1.0, seed=seed, mode=mode)
        for mode in ("linear", "full")
        for seed in (1, 2, 3)
    ]
    board = board_of(*folders)
    own = {one.entry.name: one for one in board.standings if not one.entry.shared}
    assert own.keys() == {"linear", "full"}
    assert sorted(own["full"].entry.seeds) == [1, 2, 3]
    assert own["full"].entry.runs == 3
    one = board_of(folders[0])
    assert one.standings[0].entry.name == "a", "a single entry is called after its encoder"


def test_luck_of_seeds_is_inside_the_interval(tmp_path):
    alike = [write_run(tmp_path / f"a{seed}", 1.0, seed=seed, luck=7) for seed in (1, 2, 3)]
    unlike = [
        write_run(tmp_path / f"u{seed}", skill, seed=seed, luck=7)
        for seed, skill in ((1, 0.0), (2, 1.0), (3, 3.0))
    ]
    width = []
    for folders in (alike, unlike):
        board = board_of(*folders)
        own = next(one for one in board.standings if not one.entry.shared)
        interval = own.metrics["auroc"]
        width.append(interval.high - interval.low)
    assert width[1] > 1.5 * width[0]


def test_what_all_runs_share_stands_once_and_checks_do_not_stand_at_all(tmp_path):
    folders = [
        write_run(tmp_path / name, 1.0, encoder=f"runs/{name}/encoder") for name in ("a", "b")
    ]
    entries, remarks = make_entries([read_run(one) for one in folders])
    assert [one.name for one in entries] == ["a", "b", "thumbnail"]
    assert entries[-1].runs == 2
    assert remarks == []


def test_who_may_have_seen_the_test_is_an_entry_of_its_own_and_is_told(tmp_path):
    folders = [
        write_run(tmp_path / "honest", 1.0),
        write_run(tmp_path / "b", 1.0, allow_seen="True"),
    ]
    board = board_of(*folders)
    assert {one.entry.name for one in board.standings} >= {"allow_seen=True", "allow_seen="}
    assert board.remarks == [
        "allow_seen=True was asked with allow_seen=true: if its pretraining has seen those who are "
        "tested, its rank is no test"
    ]


def test_a_seed_that_was_run_twice_counts_once_and_is_told(tmp_path):
    folders = [write_run(tmp_path / name, 1.0) for name in ("one", "again")]
    board = board_of(*folders)
    assert len(board.standings[0].entry.seeds) == 1
    assert board.remarks == [f"{folders[1]}: seed 1 of a is there already and counts once"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"question": "fluid"}, "are not of one question: the name of the question is thin, and"),
        ({"people": 58}, "2 participants are in the first alone, 0 in the second alone"),
        ({"turned": 3}, "have not the same test: in round test 3 participants have other answers"),
    ],
)
def test_runs_of_another_question_or_test_are_refused_in_a_line(tmp_path, capsys, other, said):
    write_run(tmp_path / "one", 1.0)
    write_run(tmp_path / "two", 1.0, seed=2, **other)
    assert main(["leaderboard", str(tmp_path / "one"), str(tmp_path / "two")]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert said in errors
    assert str(tmp_path / "one") in errors
    assert str(tmp_path / "two") in errors
    assert not (tmp_path / "one" / "leaderboard.csv").exists()


def test_the_command_writes_a_table_and_a_page_from_a_sweeps_folder(tmp_path, capsys):
    jobs = [{"name": "broken", "exit_code": 2, "run_dir": "nowhere", "reason": "no such <file>"}]
    for name, skill in (("good", 2.0), ("bad", 0.0)):
        write_run(tmp_path / name, skill, encoder=f"runs/{name}/encoder")
        jobs.append({"name": name, "exit_code": 0, "run_dir": f"/gone/{name}", "reason": ""})
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": jobs}))
    arguments = ["leaderboard", str(tmp_path), "--bootstrap", "100", "--reference", "bad"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "thin: good is ahead with AUROC" in out
    rows = list(csv.DictReader((tmp_path / "leaderboard.csv").read_text().splitlines()))
    assert [row["entry"] for row in rows] == ["good", "thumbnail", "bad", "broken"]
    assert rows[-1]["failed"] == "exit code 2: no such <file>"
    assert float(rows[0]["over_reference"]) == pytest.approx(
        float(rows[0]["auroc"]) - float(rows[2]["auroc"]), abs=2e-6
    )
    assert rows[2]["over_reference"] == rows[0]["over_best"] == ""
    page = (tmp_path / "leaderboard.html").read_text()
    assert "no such &lt;file&gt;" in page
    assert "On made-up volumes" in page
    assert "<script" not in page
    assert "http" not in page


def test_choices_are_measured_on_the_scores_that_are_made_for_them(tmp_path):
    board = board_of(write_run(tmp_path / "one", 3.0))
    own = board.standings[0]
    assert own.metrics["auroc"].value > 0.9
    assert own.metrics["balanced_accuracy"].value < 0.2, "these columns are the wrong way round"


def test_copies_below_a_run_folder_are_not_counted_again(tmp_path):
    write_run(tmp_path / "runs" / "one", 1.0)
    write_run(tmp_path / "runs" / "one" / "wandb" / "offline-run-1" / "files", 1.0)
    assert find_runs([tmp_path / "runs"]).runs == [tmp_path / "runs" / "one"]
    offline = tmp_path / "runs" / "one" / "wandb"
    assert find_runs([offline]).runs == [offline / "offline-run-1" / "files"]


@pytest.mark.parametrize("damage", ["results", "predictions", "entry"])
def test_a_damaged_run_is_refused_by_name(tmp_path, damage, capsys):
    folder = write_run(tmp_path / "one", 1.0)
    if damage == "results":
        (folder / "results.json").write_text("{")
    elif damage == "predictions":
        (folder / "predictions.parquet").write_bytes(b"PAR1")
    else:
        document = json.loads((folder / "results.json").read_text())
        del document["entry"]
        (folder / "results.json").write_text(json.dumps(document))
    assert main(["leaderboard", str(folder)]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert str(folder) in errors


def test_a_place_without_runs_and_a_reference_that_is_not_there_are_told(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BoardError, match=r"no results\.json in it or below"):
        find_runs([tmp_path / "empty"])
    with pytest.raises(BoardError, match="no such folder"):
        find_runs([tmp_path / "none"])
    folder = write_run(tmp_path / "one", 1.0)
    with pytest.raises(BoardError, match="reference 'other' must be one of a; thumbnail"):
        board_of(folder, reference="other")
    with pytest.raises(BoardError, match="must be wandb:ENTITY/PROJECT"):
        fetch_project("project", Path(tmp_path))


def test_ranks_of_samples_share_ties_and_put_what_cannot_be_measured_last():
    samples = np.array([[0.9, 0.5, np.nan], [0.5, 0.5, 0.1], [0.2, 0.5, np.nan]])
    assert rank_samples(samples) == [(1, 2), (1, 2), (3, 3)]


def test_encoders_are_called_by_what_tells_their_places_apart():
    assert short_names(["runs/one/encoder", "runs/two/encoder"]) == {
        "runs/one/encoder": "one", "runs/two/encoder": "two",
    }  # fmt: skip
    assert short_names(["a/single.pt", "a/multi.pt"]) == {
        "a/single.pt": "single.pt", "a/multi.pt": "multi.pt",
    }  # fmt: skip
    assert short_names(["runs/x/encoder"]) == {"runs/x/encoder": "x"}


def test_a_page_and_a_table_have_the_same_rows(tmp_path):
    board = board_of(write_run(tmp_path / "one", 1.0), failed=[("two", "exit code 137")])
    head, rows = table_of(board)
    assert all(len(row) == len(head) for row in rows)
    assert page_of(board).count("<tr") == 1 + len(rows)
    assert [path.name for path in write_board(board, tmp_path / "new")] == [
        "leaderboard.csv", "leaderboard.html",
    ]  # fmt: skip
