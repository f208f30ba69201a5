"""How often a test was looked at: what is another look, and what is the same again."""

from dataclasses import replace

from oct_judge.question import ComparisonConfig, FinetuneConfig
from oct_judge.touches import LEDGER, touch
from oct_vjepa.evaluation.readouts import ReadoutConfig

USUAL = FinetuneConfig(name="a", run_dir="runs/a", weights="runs/b/encoder")


def look(folder, config=USUAL, *, question="q", encoder="e", volumes="v"):
    return touch(folder, question, config, encoder=encoder, volumes=volumes)


def test_the_same_encoder_asked_the_same_way_is_one_look(tmp_path):
    fewer = ComparisonConfig(baselines=[], together=False, ranked=False, subgroups=[])
    again = replace(USUAL, name="b", run_dir="runs/b", bootstrap=500, compare=fewer)
    assert [look(tmp_path), look(tmp_path), look(tmp_path, again)] == [1, 1, 1]


def test_another_way_encoder_or_scan_is_another_look(tmp_path):
    other = replace(USUAL, readout=ReadoutConfig(pools=["max"]))
    rivals = replace(USUAL, compare=ComparisonConfig(encoders=["theirs=runs/theirs/encoder"]))
    looks = [
        look(tmp_path),
        look(tmp_path, other),
        look(tmp_path, replace(USUAL, mode="knn")),
        look(tmp_path, rivals),
        look(tmp_path, encoder="another"),
        look(tmp_path, volumes="others"),
    ]
    assert looks == [1, 2, 3, 4, 5, 6]
    assert look(tmp_path, question="of others") == 1


def test_a_torn_line_of_the_ledger_is_no_look(tmp_path):
    look(tmp_path)
    with (tmp_path / LEDGER).open("a") as file:
        file.write('{"question": "q", "sett')
    assert look(tmp_path) == 1
