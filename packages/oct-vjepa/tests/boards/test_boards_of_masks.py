"""Runs that masks answer are ranked by what was measured on each participant."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from oct_vjepa.boards.page import csv_of, table_of, text_of
from oct_vjepa.boards.runs import BoardError, read_run
from oct_vjepa.boards.standings import make_board

PEOPLE = 40
SETTINGS = {"mode": "segment", "seeds": "1"}
METRICS = ("dice", "dice_IRF", "surface_95_um_IRF")


def write_run(folder, skill, *, seed=0, encoder="runs/a/encoder", kind="segmentation", **asked):
    """A run folder of masks as finetune leaves one, with a U-Net that all runs share."""
    folder.mkdir(parents=True)
    hard = np.random.default_rng(99).normal(0, 0.1, PEOPLE)  # of a participant, whoever draws
    blocks = []
    for candidate, own, luck in (("pretrained", skill, seed), ("U-Net from scratch", 0.6, 50)):
        noise = np.random.default_rng(luck).normal(0, 0.02, PEOPLE)
        dice = own + hard + noise
        away = np.where(np.arange(PEOPLE) % 5, 100 * (1 - dice), np.nan)  # no surface in some
        columns = {
            "candidate": [candidate] * PEOPLE,
            "seed": [seed] * PEOPLE,
            "round": ["test"] * PEOPLE,
            "participant": [f"{one:03}" for one in range(PEOPLE)],
        }
        blocks.append(pa.table(columns | dict(zip(METRICS, (dice, dice, away), strict=True))))
    pq.write_table(pa.concat_tables(blocks), folder / "measures.parquet")
    question = {"name": "masks", "kind": kind, "names": ["background", "IRF"], "unit": "um"}
    entry = {
        "encoder": encoder,
        "fingerprint": f"{encoder}-weights",
        "settings": SETTINGS | {"seed": str(seed)},
    }
    document = {"made_up_data": True, "headline": "dice", "entry": entry}
    document["question"] = question | {"counted": ["IRF"], "boundaries": []} | asked
    (folder / "results.json").write_text(json.dumps(document))
    return folder


def board_of(*folders, **settings):
    return make_board([read_run(one) for one in folders], bootstrap=200, **settings)


def test_encoders_are_ranked_by_dice_in_pairs(tmp_path):
    skills = {"weak": 0.5, "strong": 0.7}
    folders = [
        write_run(tmp_path / f"{name}{seed}", skill, seed=seed, encoder=f"runs/{name}/encoder")
        for name, skill in skills.items()
        for seed in (0, 1)
    ]
    board = board_of(*folders, reference="U-Net")
    assert board.headline == "dice"
    assert [one.entry.name for one in board.standings] == ["strong", "U-Net from scratch", "weak"]
    assert [sorted(one.entry.seeds) for one in board.standings] == [[0, 1]] * 3
    strong, shared, weak = board.standings
    assert shared.entry.shared
    assert (strong.rank_low, strong.rank_high) == (1, 1)
    gap = weak.to_best
    wanted = weak.metrics["dice"].value - strong.metrics["dice"].value
    assert gap.difference.value == pytest.approx(wanted)
    width = strong.metrics["dice"].high - strong.metrics["dice"].low
    assert gap.difference.high - gap.difference.low < width / 2, "the same people, in pairs"
    assert gap.p_holm < 0.05
    assert strong.to_reference.difference.value > 0
    head, rows = table_of(board)
    assert head[2] == "Dice"
    assert rows[0][1] == "strong"
    assert "surface_95_um_IRF_low" in csv_of(board)
    assert "weak" in text_of(board)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"kind": "patches"}, "the kind of the question is segmentation, and patches"),
        ({"counted": ["SRF"]}, r"the counted of the question is \['IRF'\], and \['SRF'\]"),
    ],
)
def test_other_questions_of_masks_are_refused_in_a_line(tmp_path, other, said):
    first = write_run(tmp_path / "first", 0.5)
    second = write_run(tmp_path / "second", 0.5, **other)
    with pytest.raises(BoardError, match=said):
        board_of(first, second)


def test_a_run_without_its_measures_is_refused_by_name(tmp_path):
    folder = write_run(tmp_path / "run", 0.5)
    (folder / "measures.parquet").unlink()
    with pytest.raises(BoardError, match=r"run: cannot be read .*measures\.parquet"):
        read_run(folder)
