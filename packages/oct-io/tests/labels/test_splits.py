"""Splits by participant: balanced, reproducible, kept as hashes; and releases that do not mix."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from oct_io import PhantomTree, TreeError, hash_participant, write_phantom_tree
from oct_io.catalog.participants import hash_ids, read_participants
from oct_io.catalog.releases import dataset_version, table_version
from oct_io.catalog.seen import read_origin, refuse_seen, seen_before
from oct_io.cli import main
from oct_io.labels.splits import Split, make_split, read_split, stratified_folds, write_split
from oct_io.labels.tables import read_people

GROUPS = (
    "healthy",
    "pre_diabetes_lifestyle_controlled",
    "oral_medication_and_or_non_insulin_injectable_medication_controlled",
    "insulin_dependent",
)


def people(count=300, seed=0, **cells):
    """Participants of three sites, the groups as unequal as AI-READI's."""
    rng = np.random.default_rng(seed)
    groups = rng.choice(GROUPS, count, p=[0.35, 0.23, 0.3, 0.12])
    sites = rng.choice(list("147"), count, p=[0.36, 0.27, 0.37])
    return hash_ids({
        f"{site}{number:03d}": {"study_group": str(group), **cells}
        for number, (site, group) in enumerate(zip(sites, groups, strict=True))
    })  # fmt: skip


def shares(table, folds, column):
    return np.array([
        [Counter(table[one][column] for one in fold)[value] for value in sorted(
            {row[column] for row in table.values()}
        )]
        for fold in folds
    ])  # fmt: skip


def test_folds_hold_everybody_once_and_have_equal_shares_of_class_and_site():
    table = people()
    split = make_split(table, "study_group", folds=5, seed=0)
    folds = list(split.parts.values())
    assert list(split.parts) == [f"fold-{number}" for number in range(5)]
    assert sorted(one for fold in folds for one in fold) == sorted(table)
    for column in ("study_group", "@site"):
        assert np.ptp(shares(table, folds, column), axis=0).max() <= 4
    assert [len(fold) for fold in folds] == pytest.approx([60] * 5, abs=4)
    assert split.rule == "StratifiedGroupKFold of 5 by study_group and site, seed 0"


def test_the_same_seed_gives_the_same_folds_whatever_the_order_of_the_table():
    table = people()
    backwards = dict(reversed(table.items()))
    one, other, third = (
        make_split(rows, "study_group", seed=seed)
        for rows, seed in [(table, 0), (backwards, 0), (table, 1)]
    )
    assert one == other
    assert one != third


def test_every_fold_has_every_class_even_where_a_class_is_rare_at_each_site():
    for seed in range(10):
        table = people(60, seed)
        labels = Counter(row["study_group"] for row in table.values())
        folds = min(3, *labels.values())
        split = make_split(table, "study_group", folds=folds, seed=seed)
        assert (shares(table, split.parts.values(), "study_group") > 0).all()


def test_a_recommended_split_goes_first_unless_it_is_to_be_ignored():
    table = people(30)
    for number, row in enumerate(table.values()):
        row["recommended_split"] = ("train", "val", "test")[number % 3] if number < 27 else ""
    split = make_split(table, "study_group", folds=2)
    assert split.rule == "recommended_split"
    assert {name: len(part) for name, part in split.parts.items()} == {
        "train": 9, "val": 9, "test": 9,
    }  # fmt: skip
    assert len(make_split(table, "insulin_vs_rest", folds=2, recommended=False).parts) == 2


def test_participants_without_the_label_are_in_no_fold():
    table = people(40)
    for row in list(table.values())[:10]:
        row["study_group"] = ""
    split = make_split(table, "healthy_vs_rest", folds=3)
    assert sum(map(len, split.parts.values())) == 30


def test_too_many_folds_name_the_class_that_is_too_small():
    table = hash_ids({f"10{i:02d}": {"amd": "yes" if i < 3 else "no"} for i in range(12)})
    with pytest.raises(TreeError, match="class 'true' has 3 participants, fewer than the 5 folds"):
        make_split(table, "amd", folds=5)
    with pytest.raises(TreeError, match=r"folds \(1\) must be 2 or more"):
        stratified_folds({"a": 0, "b": 1}, {}, folds=1, seed=0)


def test_a_participant_in_two_parts_is_refused():
    with pytest.raises(TreeError, match="1 participants of part 'test' are in another part"):
        Split(parts={"train": frozenset("ab"), "test": frozenset("bc")}, rule="mine")


def test_a_split_is_kept_as_a_table_of_hashes(tmp_path):
    split = make_split(people(50), "study_group", folds=3)
    path = tmp_path / "deep" / "split.tsv"
    write_split(path, split)
    assert read_split(path) == split
    assert [one.name for one in path.parent.iterdir()] == ["split.tsv"]
    first = path.read_bytes()
    write_split(path, split)
    assert path.read_bytes() == first
    assert path.read_text().splitlines()[0] == "participant\tpart\trule"


def test_a_table_that_is_no_split_is_refused(tmp_path):
    path = tmp_path / "split.tsv"
    path.write_text("participant\tpart\nabc\ttrain\n")
    with pytest.raises(TreeError, match="needs rows with the columns participant, part, rule"):
        read_split(path)
    path.write_text("participant\tpart\trule\nabc\ttrain\tmine\nabc\ttest\tmine\n")
    with pytest.raises(TreeError, match="are in another part as well"):
        read_split(path)
    path.write_text("participant\tpart\trule\nabc\ttrain\tmine\nabc\ttrain\tmine\n")
    with pytest.raises(TreeError, match="names a participant twice"):
        read_split(path)


def test_without_scikit_learn_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    with pytest.raises(
        TreeError, match=r"^scikit-learn is not installed; install oct-io\[split\]$"
    ):
        make_split(people(40), "healthy_vs_rest", folds=2)


def test_importing_splits_does_not_import_scikit_learn():
    code = "import sys, oct_io.labels.splits, oct_io.cli; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom") / "tree"
    spec = PhantomTree(participants=12, shape=(4, 40, 32), devices=("phantom_a",), jobs=1)
    write_phantom_tree(root, spec)
    return root


def test_the_command_writes_the_split_and_names_nobody(tree, tmp_path, capsys):
    out = tmp_path / "split.tsv"
    command = ["split", str(tree), "--column", "thin", "--folds", "3", "--seed", "4"]
    assert main([*command, "--ignore-recommended", "--out", str(out)]) == 0
    split = read_split(out)
    assert split == make_split(
        hash_ids(read_participants(tree)), "thin", folds=3, seed=4, recommended=False
    )
    shown = capsys.readouterr()
    text = shown.out + out.read_text()
    assert "fold-2" in shown.out
    assert not any(one in text.split() for one in read_participants(tree))


@pytest.mark.parametrize("column", ["filepath", "eye"])
def test_labels_of_eyes_or_scans_are_split_by_participant_and_the_rarer_answer(tmp_path, column):
    lines = [f"participant_id,{column},ill"]
    for person in range(1, 25):
        for eye in "RL":
            where = eye if column == "eye" else f"{person}/{eye}.dcm"
            lines.append(f"{person:03d},{where},{int(eye == 'L' and person <= 8)}")
    (tmp_path / "l.csv").write_text("\n".join(lines))
    out = tmp_path / "split.tsv"
    settings = ("--column", "ill", "--folds", "4", "--out", str(out))
    assert main(["split", str(tmp_path / "l.csv"), *settings]) == 0
    parts = read_split(out).parts
    ill = {hash_participant(str(person)) for person in range(1, 9)}
    assert [len(people) for people in parts.values()] == [6] * 4
    assert [len(people & ill) for people in parts.values()] == [2] * 4
    lines[0] += ",recommended_split"
    for place in range(1, len(lines)):
        lines[place] += ",train" if place % 2 else ",test"
    (tmp_path / "l.csv").write_text("\n".join(lines))
    with pytest.raises(TreeError, match="line 3 puts its participant into another part"):
        read_people(tmp_path / "l.csv", "ill")


def test_a_table_that_is_none_says_how_to_save_it(tmp_path):
    (tmp_path / "l.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(TreeError, match=r"l\.xlsx: no table of text; save it as \.csv, \.tsv or"):
        read_participants(tmp_path / "l.xlsx")
    (tmp_path / "l.csv").write_text("participant_id;ill\n1;0,5\n")
    with pytest.raises(TreeError, match="its columns are parted by semicolons; save it with"):
        read_participants(tmp_path / "l.csv")


def test_the_command_follows_the_recommended_split(tree, capsys):
    assert main(["split", str(tree), "--column", "study_group"]) == 0
    assert "(recommended_split)" in capsys.readouterr().out
    assert main(["split", str(tree), "--column", "glaucoma"]) == 2
    assert "no label column 'glaucoma'" in capsys.readouterr().err


def renamed(tree, root, table_id, manifest_id):
    """A copy of the tables of a tree, with these names of the id column."""
    for relative, column in [
        ("participants.tsv", table_id), ("retinal_oct/manifest.tsv", manifest_id),
    ]:  # fmt: skip
        path = root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((tree / relative).read_text().replace("participant_id", column, 1))
    return root


def test_the_release_is_told_by_the_name_of_the_id(tree, tmp_path):
    assert dataset_version(tree) == 2
    assert dataset_version(renamed(tree, tmp_path / "3", "person_id", "person_id")) == 3
    assert dataset_version(tmp_path) is None
    assert table_version(tmp_path / "3" / "participants.tsv") == 3


@pytest.mark.parametrize(("table", "manifest"), [(2, 3), (3, 2)])
def test_tables_of_two_releases_under_one_root_are_refused(tree, tmp_path, table, manifest):
    names = {2: "participant_id", 3: "person_id"}
    root = renamed(tree, tmp_path / "mixed", names[table], names[manifest])
    with pytest.raises(TreeError, match=rf"is of release {table} .*release {manifest} .*mixed"):
        dataset_version(root)
    assert dataset_version(root, mixed=True) == manifest


def test_a_test_participant_who_was_pretrained_on_is_refused():
    seen = [hash_participant(str(number)) for number in range(10)]
    facts = {"participants_in_training": seen, "dataset_version": 2}
    fresh = [hash_participant("77")]
    refuse_seen(facts, fresh, fingerprint="f", version=3)
    with pytest.raises(TreeError, match=r"2 of 3 test .* on release 2 .*of release 3") as caught:
        refuse_seen(facts, [*fresh, *seen[:2]], fingerprint="f", version=3)
    assert not any(one in str(caught.value) for one in seen)
    with pytest.raises(TreeError, match=r"1 of 1 test participants took part.*test_split=PART"):
        refuse_seen(facts, seen[:1], fingerprint="other", version=2)


def test_whom_an_encoder_has_met_is_known_wherever_in_its_run_it_lies(tmp_path, monkeypatch):
    def wrote(run, **facts):
        (tmp_path / run).mkdir()
        (tmp_path / run / "provenance.json").write_text(json.dumps(facts))
        return tmp_path / run

    first = wrote("first", participants_in_training=["a", "b"])
    second = wrote("second", participants_in_training=["c"], participants_seen_before=["a", "b"])
    inside = [second / one for one in ("encoder", "model/encoder", "model/members/0/encoder")]
    for place in inside:
        assert read_origin(place) == read_origin(f"{second}/encoder/")
        assert seen_before([place]) == ["a", "b", "c"]
    assert seen_before([first / "encoder", tmp_path / "none" / "encoder"]) == ["a", "b"]
    monkeypatch.chdir(second)
    assert seen_before(["encoder"]) == ["a", "b", "c"]
    assert read_origin("https://host.invalid/weights/vitl.pt") is None
    with pytest.raises(TreeError, match="1 of 2 test participants took part in pretraining"):
        refuse_seen(read_origin(second / "encoder"), ["a", "z"], fingerprint="f", version=None)
    (first / "provenance.json").write_text("{")
    with pytest.raises(TreeError, match=r"provenance\.json: damaged, it is no JSON"):
        seen_before([first / "encoder"])


def test_a_run_that_kept_no_list_is_compared_by_its_fingerprint_and_exclusions():
    facts = {"excluded_participants": ["a", "b"], "dataset_fingerprint": "same"}
    refuse_seen(facts, ["a", "b"], fingerprint="same", version=2)
    refuse_seen(facts, ["a", "c"], fingerprint="other", version=2)
    with pytest.raises(TreeError, match="1 of 2 test participants were not excluded"):
        refuse_seen(facts, ["a", "c"], fingerprint="same", version=2)
