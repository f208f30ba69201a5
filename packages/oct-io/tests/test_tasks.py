"""Answers of every kind for the volumes of a source, and labels of participants, eyes and scans."""

import numpy as np
import pytest
from oct_io import PhantomTree, SourceConfig, TreeError, hash_participant, open_source
from oct_io.labelled import UNLABELLED
from oct_io.labels.questions import LabelQuestion
from oct_io.labels.splits import Split, write_split
from oct_io.labels.tables import id_form, path_form

PEOPLE = 12


def table(path, columns, *lines):
    path.write_text("\n".join((columns, *lines)) + "\n")
    return str(path)


@pytest.fixture
def opened(tmp_path, scan_file):
    """Opens a folder with both eyes of P701 to P712, each in a file such as 3/R.dcm."""
    for number in range(PEOPLE):
        for eye in "LR":
            scan_file(
                f"scans/{number}/{eye}.dcm", laterality=eye, participant_id=f"P{701 + number}"
            )

    def opened(columns="", *lines, **settings):
        if columns:
            settings["labels"] = table(tmp_path / "labels.csv", columns, *lines)
        return open_source(
            SourceConfig(
                root=str(tmp_path / "scans"), window="tiny", cache=str(tmp_path / "cache"), jobs=1,
                **settings,
            )
        )  # fmt: skip

    return opened


def each(make, count=PEOPLE):
    return [f"P{701 + number},{make(number)}" for number in range(count)]


def by_person(examples):
    """Hashed participant to the answers of its volumes."""
    found = {}
    for person, value in zip(examples.participants, examples.values.tolist(), strict=True):
        found.setdefault(str(person), []).append(value)
    return found


def hashed(number):
    return hash_participant(f"P{701 + number}")


def test_a_quantity_keeps_its_values_and_its_unit(opened):
    source = opened("participant_id,age", *each(lambda n: 40 + n if n else ""))
    question = LabelQuestion(column="age", kind="regression", unit="years")
    ages = source.labelled(question)
    assert (ages.kind, ages.names, ages.unit) == ("regression", ("age",), "years")
    assert ages.values.dtype == np.float64
    assert by_person(ages) == {hashed(n): [40 + n] * 2 for n in range(1, PEOPLE)}
    assert "2 volumes have no answer" in ages.describe()
    with pytest.raises(TreeError, match="'age' has regression answers, and no classes"):
        _ = ages.labels
    test = set(ages.participants[ages.held_out].tolist())
    assert 0 < len(test) < PEOPLE - 1
    assert not test & set(ages.participants[~ages.held_out].tolist())
    assert ages.split_rule.startswith("first of ")


def test_a_column_by_its_name_alone_must_hold_classes(opened):
    source = opened("participant_id,age", *each(lambda n: 40.5 + n, count=30))
    with pytest.raises(TreeError, match="'age' has more than 20 different numbers; at most 20"):
        source.labelled("age")
    assert source.labelled(LabelQuestion(column="age")).kind == "regression"
    with pytest.raises(TreeError, match="no label column 'weight'; the table has"):
        source.labelled(LabelQuestion(column="weight", kind="regression"))


def test_several_labels_at_once_may_each_be_missing(opened):
    def cells(n):
        return ("yes,no", "no,", ",", "no,yes")[n % 4]

    source = opened("participant_id,amd,dme", *each(cells))
    found = source.labelled(LabelQuestion(columns=["dme", "amd"]))
    assert (found.kind, found.names) == ("multilabel", ("dme", "amd"))
    assert (found.values.shape, found.values.dtype) == ((18, 2), np.int64)
    answers = by_person(found)
    assert answers[hashed(0)][0] == [0, 1]
    assert answers[hashed(1)][0] == [UNLABELLED, 0]
    assert hashed(2) not in answers
    assert "6 volumes have no answer" in found.describe()


def test_survival_has_a_time_and_whether_it_ended_with_the_event(opened):
    source = opened(
        "participant_id,years,died", *each(lambda n: f"{n + 0.5},{('no', 'yes')[n % 2]}")
    )
    found = source.labelled(LabelQuestion(column="years", event="died", unit="years"))
    assert (found.kind, found.names, found.values.shape) == ("survival", ("years",), (24, 2))
    assert by_person(found)[hashed(3)] == [[3.5, 1.0]] * 2
    below = opened("participant_id,years,died", *each(lambda n: f"{n - 1},no"))
    with pytest.raises(TreeError, match="'years' holds a time below 0"):
        below.labelled(LabelQuestion(column="years", event="died"))


def test_labels_of_eyes_tell_the_two_of_a_participant_apart(opened):
    lines = [f"P{701 + n},{eye},{(n + (eye == 'OD')) % 2},F" for n in range(11)
             for eye in ("OD", "left")]  # fmt: skip
    source = opened("Participant ID,Eye,seen,sex", *lines, "P999,OD,1,F")
    found = source.labelled("seen", attributes=["sex", "@eye"])
    said = zip(found.participants, found.eyes, found.values.tolist(), strict=True)
    number = {hashed(n): n for n in range(PEOPLE)}
    assert {(eye, (number[str(one)] + (eye == "R")) % 2 == value) for one, eye, value in said} == {
        ("R", True), ("L", True),
    }  # fmt: skip
    text = found.describe()
    assert "; one answer an eye; " in text
    assert f"1 rows of the label table have no scan ({hash_participant('P999')} R)" in text
    assert f"2 volumes of 1 participants have no row in the label table ({hashed(11)})" in text
    assert set(found.columns["sex"].tolist()) == {"F"}
    assert source.table[hashed(0)] | {"sex": "F"} == source.table[hashed(0)], "both eyes agree"
    assert source.table[hashed(0)].get("seen", "") == "", "they do not"


@pytest.mark.parametrize("spelt", ["{n}/{eye}.dcm", "/scans/{n}/{eye}.dcm", "{n}/{eye}"])
def test_labels_of_scans_are_found_by_their_paths(opened, spelt):
    lines = [
        f"{spelt.format(n=n, eye=eye)},{n % 2 if eye == 'L' else 2},{('train', 'test')[n % 2]}"
        for n in range(PEOPLE) for eye in "LR"
    ]  # fmt: skip
    if spelt.startswith("/scans"):
        with pytest.raises(TreeError, match=r"the table says paths of 3 parts ending in \.dcm, the "
                           r"scans say paths of 2 parts ending in \.dcm"):  # fmt: skip
            opened("filepath,grade,recommended_split", *lines).labelled("grade")
        return
    source = opened("filepath,grade,recommended_split", *lines)
    found = source.labelled("grade")
    assert found.values[found.eyes == "R"].tolist() == [2] * PEOPLE
    assert sorted(found.values[found.eyes == "L"].tolist()) == [0] * 6 + [1] * 6
    assert found.notes == ("one answer a scan",)
    assert found.split_rule == "recommended_split test"
    assert set(found.parts[found.held_out]) == {"test"}
    assert set(found.participants[found.held_out]) == {hashed(n) for n in range(1, PEOPLE, 2)}


def test_an_eye_or_scan_twice_is_an_error_with_its_line(opened):
    with pytest.raises(TreeError, match="line 3 repeats the eye of an earlier line"):
        opened("participant_id,eye,seen", "P701,R,1", "P701,OD,0")
    with pytest.raises(TreeError, match="line 3 repeats the scan of an earlier line"):
        opened("scan,seen", "0/R.dcm,1", "0/R,0")
    with pytest.raises(TreeError, match="line 2 does not say which scan it is of"):
        opened("scan,seen", ",1")
    with pytest.raises(TreeError, match="needs a column participant_id or person_id; it has: name"):
        opened("name,eye,seen", "P701,R,1")


def test_an_eye_that_is_said_in_some_rows_alone_is_refused_with_its_line(opened):
    lines = [f"P{701 + n},{'R' if n != 4 else ''},{n % 2}" for n in range(PEOPLE)]
    with pytest.raises(TreeError, match=r"1 of 12 rows say no R or L in the column eye, the first "
                       "in line 6"):  # fmt: skip
        opened("participant_id,eye,seen", *lines)
    colours = opened("participant_id,eye,seen", *each(lambda n: f"blue,{n % 2}"))
    assert "one answer a participant" in colours.labelled("seen").describe()


@pytest.mark.parametrize("columns", ["filepath", "participant_id,eye"])
@pytest.mark.parametrize("elsewhere", ["train", ""])
def test_a_participant_in_two_parts_of_a_recommended_split_is_refused(opened, columns, elsewhere):
    def name(n, eye):
        return f"{n}/{eye}.dcm" if columns == "filepath" else f"P{701 + n},{eye}"

    lines = [
        f"{name(n, eye)},{n % 2},{'test' if eye == 'L' else elsewhere}"
        for n in range(PEOPLE) for eye in "LR"
    ]  # fmt: skip
    with pytest.raises(TreeError, match="line 3 puts its participant into another part of "):
        opened(f"{columns},seen,recommended_split", *lines)
    same = [line.replace(",train", ",Valid") for line in lines[::2]]
    source = opened(f"{columns},seen,recommended_split", *same)
    assert source.split is not None
    assert len(source.split.parts["test"]) == PEOPLE


def test_the_split_of_a_table_of_scans_stands_above_that_of_the_root(opened, tmp_path):
    table(
        tmp_path / "scans" / "participants.csv",
        "participant_id,sex",
        *each(lambda n: "FM"[n % 2]),
    )
    lines = [
        f"{n}/{eye}.dcm,{n % 2},{'test' if n < 4 else 'train'}"
        for n in range(PEOPLE) for eye in "LR"
    ]  # fmt: skip
    source = opened("filepath,seen,recommended_split", *lines)
    assert source.excluded_participants(["test"]) == sorted(map(hashed, range(4)))
    assert len(source.outside(["test"])) == 16
    assert set(source.attributes(["sex"])["sex"].tolist()) == {"F", "M"}


def test_scans_of_one_participant_that_count_as_of_two_are_refused(opened):
    lines = [f"{n}/{eye}.dcm,case-{n // 2},{n % 2}" for n in range(PEOPLE) for eye in "LR"]
    with pytest.raises(TreeError, match="line 4 names the participant of an earlier line, and "):
        opened("filepath,participant_id,seen", *lines)
    lines = [f"{n}/{eye}.dcm,case-{n},{n % 2}" for n in range(PEOPLE) for eye in "LR"]
    assert opened("filepath,participant_id,seen", *lines).labelled("seen").values.size == 24


def test_scans_of_nobody_are_in_no_split_and_that_is_said(tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "volume.json").write_text('{"spacing_mm": [0.1, 0.01, 0.02]}')
    grey = np.random.default_rng(0).integers(0, 255, (8, 8, 16, 16), dtype=np.uint8)
    for number, one in enumerate(grey):
        np.save(tmp_path / "scans" / f"{number}.npy", one)

    def opened(columns, line):
        labels = table(tmp_path / "l.csv", columns, *(line.format(n=n, k=n % 2) for n in range(8)))
        return open_source(
            SourceConfig(
                root=str(tmp_path / "scans"), window="8x16x16", cache=str(tmp_path / "cache"),
                jobs=1, labels=labels,
            )
        )  # fmt: skip

    with pytest.raises(TreeError, match="no scan with an answer says whose it is, so that all"):
        opened("filepath,seen", "{n}.npy,{k}").labelled("seen")
    with pytest.raises(TreeError, match="line 2 says the recommended_split of a scan of which "):
        opened("filepath,seen,recommended_split", "{n}.npy,{k},test")


@pytest.mark.parametrize("clear", [True, False])
def test_a_split_of_other_people_is_refused_before_anybody_is_learned_from(opened, tmp_path, clear):
    names = [f"P{701 + n}" if clear else hash_participant(f"Q{701 + n}") for n in range(PEOPLE)]
    parts = {"train": frozenset(names[:8]), "test": frozenset(names[8:])}
    write_split(tmp_path / "split.tsv", Split(parts=parts, rule="mine"))
    with pytest.raises(TreeError, match=r"split \(mine\): none of its 12 participants has a scan"):
        opened(split=str(tmp_path / "split.tsv"))
    free = opened(split=str(tmp_path / "split.tsv"), excluded_splits=[])
    assert len(free.outside([])) == 24


def test_who_is_in_no_part_of_the_split_is_counted(opened):
    lines = each(lambda n: f"{n % 2},{('train', 'test', '')[n % 3]}")
    source = opened("participant_id,seen,recommended_split", *lines)
    assert (
        "4 of 12 participants with scans are in no part of the split (recommended_split)"
        in (source.remarks[0])
    )
    missing = opened("participant_id,seen,recommended_split", *each(lambda n: f"{n % 2},NA"))
    assert (missing.split, missing.remarks) == (None, ())
    assert missing.labelled("seen").split_rule.startswith("first of 4 folds")


def test_a_table_that_meets_no_scan_says_what_the_ids_look_like_and_none_of_them(opened):
    source = opened("participant_id,seen", *(f"{1001 + n},{n % 2}" for n in range(8)))
    with pytest.raises(TreeError) as caught:
        source.labelled("seen")
    assert str(caught.value) == (
        "label table: no scan is of the participant of any of its 8 rows; the table says ids of "
        "4 digits, the scans say ids of 'P' and 3 digits; write ids as the scans have them"
    )


def test_forms_of_ids_and_paths_show_what_all_share_and_nothing_else():
    assert id_form(["P001", "P002"]) == "ids of 'P' and 3 digits"
    assert id_form(["AB12", "CD34", "EF56"]) == "ids of 2 letters and 2 digits"
    assert id_form(["Miller"]) == "ids of 6 letters"
    assert id_form(["S-1", "S-2", "S-33"]) == "ids of 'S' and '-' and 1 digit, mostly"
    assert id_form(["", "unknown"]) == "no participant"
    assert path_form(["a/b.npz", "c/d.npz"]) == "paths of 2 parts ending in .npz"
    assert path_form([]) == "no path"


def test_further_columns_stand_beside_and_unknown_cells_are_empty(opened):
    source = opened(
        "participant_id,seen,sex", *each(lambda n: f"{n % 2},{'' if n == 4 else 'FM'[n // 6]}")
    )
    found = source.labelled("seen", attributes=["sex", "@device", "@site"])
    assert list(found.columns) == ["sex", "@device", "@site"]
    for name, cells in found.columns.items():
        assert len(cells) == len(found.values), name
    sex = dict(zip(found.participants.tolist(), found.columns["sex"].tolist(), strict=True))
    assert [sex[hashed(n)] for n in (0, 4, 9)] == ["F", "", "M"]
    assert {"@device", "@eye", "sex", "seen", "@site"} <= set(source.columns())
    assert source.attributes(["sex"])["sex"].shape == (24,)
    with pytest.raises(TreeError, match="no label column 'height'; the table has"):
        source.attributes(["height"])


def test_parts_are_those_of_the_split_and_nobody_need_be_held_out(opened, tmp_path):
    parts = {"train": range(6), "val": range(6, 8), "test": range(8, 11)}
    split = {name: frozenset(map(hashed, some)) for name, some in parts.items()}
    write_split(tmp_path / "split.tsv", Split(parts=split, rule="mine"))
    lines = each(lambda n: n % 2)
    source = opened("participant_id,seen", *lines, split=str(tmp_path / "split.tsv"))
    found = source.labelled("seen")
    told = dict(zip(found.participants.tolist(), found.parts.tolist(), strict=True))
    assert [told[hashed(n)] for n in (0, 6, 8, 11)] == ["train", "val", "test", ""]
    assert (found.held_out == (found.parts == "test")).all()
    assert not source.labelled("seen", test_split="").held_out.any()
    free = opened("participant_id,seen", *lines).labelled("seen", test_split="")
    assert not free.held_out.any()
    assert set(free.parts.tolist()) == {""}
    assert free.split_rule == "nobody held out"
    made = opened("participant_id,seen", *lines).labelled("seen")
    assert set(made.parts.tolist()) == {"train", "test"}


def test_a_phantom_has_an_answer_to_every_kind_of_question(tmp_path):
    tree = PhantomTree(
        participants=24, shape=(4, 40, 32), split_fractions=(0.5, 0.0, 0.5), jobs=1, eyes=("R",),
        devices=("phantom_a",),
    )  # fmt: skip
    source = open_source(
        SourceConfig(root=str(tmp_path / "t"), cache=str(tmp_path / "c"), window="tiny", jobs=1,
                     phantom=tree)
    )  # fmt: skip
    questions = {
        "nominal": LabelQuestion(column="sex"),
        "ordinal": LabelQuestion(column="severity", kind="ordinal"),
        "multilabel": LabelQuestion(columns=["thin", "fluid"]),
        "regression": LabelQuestion(column="age", kind="regression"),
        "survival": LabelQuestion(column="years", event="event"),
    }
    found = {kind: source.labelled(question) for kind, question in questions.items()}
    assert [one.kind for one in found.values()] == list(questions)
    assert {len(one.values) for one in found.values()} == {24}
    lesions = found["multilabel"].values.sum(axis=1) + source.labelled("drusen").values
    assert (lesions == found["ordinal"].values).all()
