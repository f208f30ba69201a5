"""Presets over the study groups, class weights, ordinal targets, and labels of scans."""

from dataclasses import replace

import numpy as np
import pytest
from oct_io import TreeError, load_labels
from oct_io.answers import label_volumes
from oct_io.cache.entries import CacheEntry
from oct_io.cache.table import collect_entries
from oct_io.catalog.participants import STUDY_GROUPS, hash_ids, study_group
from oct_io.labels.classes import (
    PRESETS,
    class_weights,
    is_ordinal,
    load_class_names,
    ordinal_targets,
)
from oct_io.labels.tables import LabelTable, LabelTables

TABLE = {
    "1001": {"study_group": "healthy", "clinical_site": "UW"},
    "4002": {"study_group": "Pre-diabetes / lifestyle controlled", "clinical_site": ""},
    "7003": {
        "study_group": "Oral medication and/or non-insulin-injectable medication controlled",
    },
    "7004": {"study_group": "INSULIN  DEPENDENT", "clinical_site": "nan"},
    "90210": {"study_group": "healthy"},
}


@pytest.mark.parametrize(
    ("preset", "wanted"),
    [
        ("diabetes4", [0, 1, 2, 3, 0]),
        ("healthy_vs_rest", [0, 1, 1, 1, 0]),
        ("healthy_prediabetes_vs_treated", [0, 0, 1, 1, 0]),
        ("insulin_vs_rest", [0, 0, 0, 1, 0]),
    ],
)
def test_presets_ask_a_question_about_the_study_groups(preset, wanted):
    assert list(load_labels(TABLE, preset).values()) == wanted
    names = load_class_names(TABLE, preset)
    assert len(names) == max(wanted) + 1
    assert names == PRESETS[preset].classes


def test_the_third_group_has_its_full_name_and_any_case_or_spacing():
    full = "oral_medication_and_or_non_insulin_injectable_medication_controlled"
    assert STUDY_GROUPS[2] == full
    spelt = [full, full.upper(), full.replace("_", " "), f"  {full.replace('_', '-')} "]
    assert {study_group(one) for one in spelt} == {2}


def test_an_unknown_group_is_named_whatever_the_question():
    table = TABLE | {"7005": {"study_group": "gestational"}}
    with pytest.raises(TreeError, match="unknown study_group 'gestational'"):
        load_labels(table, "healthy_vs_rest")


def test_a_column_of_the_table_goes_before_a_preset_of_its_name():
    table = {"1": {"healthy_vs_rest": "no"}, "2": {"healthy_vs_rest": "yes"}}
    assert load_labels(table, "healthy_vs_rest") == {"1": 0, "2": 1}
    assert load_class_names(table, "healthy_vs_rest") == ("false", "true")


def test_yes_and_no_in_words_and_numbers_are_two_classes_and_not_four():
    table = {str(i): {"ill": text} for i, text in enumerate(["yes", "0", "1.0", "No", "TRUE"])}
    assert load_class_names(table, "ill") == ("false", "true")
    assert list(load_labels(table, "ill").values()) == [1, 0, 1, 0, 1]
    assert load_class_names({"1": {"ill": "0"}, "2": {"ill": "1"}}, "ill") == ("0", "1")


def test_one_number_in_several_spellings_is_one_class():
    table = {str(i): {"grade": text} for i, text in enumerate(["1", "1.0", "01", "0", "-0", "+2"])}
    assert load_class_names(table, "grade") == ("0", "1", "2")
    assert list(load_labels(table, "grade").values()) == [1, 1, 1, 0, 0, 2]


@pytest.mark.parametrize("odd", ["²", "--1", "9" * 5000, "٣", "1.5"])
def test_what_only_looks_like_a_number_is_a_word(odd):
    table = {"1": {"grade": "1"}, "2": {"grade": odd}}
    assert set(load_labels(table, "grade").values()) == {0, 1}
    assert set(load_class_names(table, "grade")) == {"1", odd}


def test_severity_is_ordinal_and_a_comparison_of_two_is_not():
    assert [is_ordinal(TABLE, one) for one in ("study_group", "diabetes4")] == [True, True]
    assert not is_ordinal(TABLE, "insulin_vs_rest")
    assert not is_ordinal({"1": {"diabetes4": "a"}}, "diabetes4")


def test_ordinal_targets_answer_more_than_each_class():
    wanted = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert ordinal_targets([0, 1, 2, 3], 4).tolist() == wanted
    with pytest.raises(ValueError, match=r"labels must be 0 to 2, not 0\.\.3"):
        ordinal_targets([0, 3], 3)


def test_class_weights_make_all_classes_weigh_alike():
    labels = np.array([0] * 6 + [1] * 3 + [2])
    weights = class_weights(labels)
    assert np.bincount(labels) * weights == pytest.approx([10 / 3] * 3)
    assert weights[labels].mean() == pytest.approx(1)
    sklearn = pytest.importorskip("sklearn.utils.class_weight")
    wanted = sklearn.compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert weights == pytest.approx(wanted)


def test_a_class_without_an_example_has_no_weight_and_is_named():
    with pytest.raises(ValueError, match="class 3 has no example"):
        class_weights([0, 1, 2], classes=4)
    with pytest.raises(ValueError, match="no labels"):
        class_weights([])


def test_the_site_is_that_of_the_table_or_of_the_ids_first_digit():
    sites = [row["@site"] for row in hash_ids(TABLE).values()]
    assert sites == ["UW", "UCSD", "UAB", "UAB", ""]
    assert not set(hash_ids(TABLE)) & set(TABLE)
    assert "@site" not in TABLE["4002"], "the rows that were given are left alone"


@pytest.mark.parametrize("names", [("1001", "1002"), ("1001", "2001"), ("1001", "4001", "P7")])
def test_ids_of_another_data_set_that_begin_alike_tell_no_site(names):
    rows = {name: {"glaucoma": "yes"} for name in names}
    assert {row["@site"] for row in hash_ids(rows).values()} == {""}
    theirs = {name: {"glaucoma": "yes"} for name in ("1001", "4002")}
    assert [row["@site"] for row in hash_ids(theirs).values()] == ["UW", "UCSD"]


def entry(number, participant, **changes):
    known = CacheEntry(
        participant=participant, key=str(number), device="topcon_triton", laterality="L",
        region="Macula, 6 x 6", protocol="unknown", spacing=(1, 1, 1), spacing_source="given",
        origin_mm=(0, 0, 0), source_shape=(1, 1, 1), source_spacing=(1, 1, 1), sha256="00" * 32,
        shard=0, slot=number,
    )  # fmt: skip
    return replace(known, **changes)


@pytest.fixture
def entries():
    people = list(hash_ids(TABLE))
    found = [
        entry(0, people[0]),
        entry(1, people[0], laterality="R", device="zeiss_cirrus"),
        entry(2, people[2], device="unknown"),
        entry(3, people[3], laterality="R", region="Macula"),
        entry(4, "someone else"),
    ]
    return collect_entries(found)


def ask(entries, question, table=None):
    """Answers in words, "" for a volume without one, and the answers as they are."""
    tables = LabelTables(LabelTable(rows=table or {}))
    found = label_volumes(entries, tables, question)
    words = ["" if np.isnan(one) else found.names[int(one)] for one in found.values]
    return words, found


def test_device_eye_and_region_label_each_scan_and_unknown_ones_have_none(entries):
    words, _ = ask(entries, "@device")
    assert words == [
        "topcon_triton", "zeiss_cirrus", "", "topcon_triton", "topcon_triton",
    ]  # fmt: skip
    words, eye = ask(entries, "@eye")
    assert (words, eye.kind) == (["l", "r", "l", "r", "l"], "nominal")
    assert eye.notes == ("one answer a scan",)
    assert ask(entries, "@region")[1].names == ("macula", "macula, 6 x 6")


def test_the_site_and_the_group_label_all_scans_of_a_participant(entries):
    table = hash_ids(TABLE)
    assert ask(entries, "@site", table)[0] == ["uw", "uw", "uab", "uab", ""]
    words, group = ask(entries, "study_group", table)
    assert words == [STUDY_GROUPS[one] for one in (0, 0, 2, 3)] + [""]
    assert group.kind == "ordinal"


def test_what_a_scan_does_not_say_is_refused_with_what_it_does(entries):
    with pytest.raises(TreeError, match="no label column '@age'; of a scan there are @device"):
        ask(entries, "@age")
    with pytest.raises(TreeError, match=r"no label table: give data\.labels=FILE"):
        ask(entries, "@site")
    with pytest.raises(TreeError, match="'@eye' has 1 class"):
        ask(entries[:1], "@eye")
