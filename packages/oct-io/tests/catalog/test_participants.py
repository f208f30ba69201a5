import pytest
from oct_io import TreeError, load_labels, read_participants
from oct_io.catalog.participants import STUDY_GROUPS, recommended_split, study_group

TABLE = """participant_id\tstudy_group\trecommended_split\tfluid\tage\tgrade\tscore
1001\thealthy\ttrain\tTRUE\t55\tnone\t0
4002\tPre-Diabetes Lifestyle Controlled\tVal\tFALSE\t61\tmild\t1
7003\toral_medication_and_or_non_insulin_injectable_medication_controlled\ttest\tTRUE\t70\tsevere\t2
7004\tInsulin dependent\ttest\t\t66\tmild\t2
"""


@pytest.fixture
def table(tmp_path):
    (tmp_path / "participants.tsv").write_text(TABLE)
    return read_participants(tmp_path)


def test_participants_are_read_by_id_from_a_folder_or_a_file(tmp_path, table):
    assert list(table) == ["1001", "4002", "7003", "7004"]
    assert read_participants(tmp_path / "participants.tsv") == table
    assert table["4002"]["age"] == "61"


def test_version_three_and_own_tables_are_read_alike(tmp_path):
    path = tmp_path / "my labels.csv"
    path.write_text("Person_ID,amd\n1001.0,yes\n04002,no\n")
    assert load_labels(path, "amd") == {"1001": 1, "4002": 0}


def test_study_groups_are_numbered_by_severity_whatever_their_spelling(table):
    assert load_labels(table, "study_group") == {"1001": 0, "4002": 1, "7003": 2, "7004": 3}
    assert [study_group(name) for name in STUDY_GROUPS] == [0, 1, 2, 3]


def test_an_unknown_study_group_is_named():
    with pytest.raises(TreeError, match="'oral_medication'"):
        study_group("oral_medication")


def test_both_spellings_of_the_fourth_group_are_one_class():
    assert study_group("insulin_controlled") == study_group("Insulin dependent") == 3


def test_unknown_words_are_named_with_their_lines(tmp_path):
    path = tmp_path / "participants.tsv"
    rows = ["person_id\tstudy_group\trecommended_split", "1\thealthy\ttrain", ""]
    rows += ["2\tgestational\ttest", "3\tgestational\ttest", "4\ttype_1\tdev"]
    path.write_text("\n".join(rows) + "\n")
    words = "unknown study_group 'gestational' in line 4, 'type_1' in line 6; known are healthy"
    with pytest.raises(TreeError, match=words):
        load_labels(path, "insulin_vs_rest")
    with pytest.raises(TreeError, match="unknown recommended_split 'dev' in line 6"):
        recommended_split(read_participants(path))


def test_splits_are_normalised_and_unknown_ones_named(table):
    wanted = {"1001": "train", "4002": "val", "7003": "test", "7004": "test"}
    assert recommended_split(table) == wanted
    table["1001"]["recommended_split"] = "dev"
    with pytest.raises(TreeError, match="'dev'"):
        recommended_split(table)


def test_labels_come_from_any_column_and_empty_cells_have_none(table):
    assert load_labels(table, "fluid") == {"1001": 1, "4002": 0, "7003": 1}
    assert load_labels(table, "score") == {"1001": 0, "4002": 1, "7003": 2, "7004": 2}
    assert load_labels(table, "grade") == {"1001": 1, "4002": 0, "7003": 2, "7004": 0}


def test_columns_that_are_no_labels_are_refused_with_the_reason(table):
    with pytest.raises(TreeError, match=r"the table has: participant_id, [a-z_, ]*score$"):
        load_labels(table, "amd")
    many = {str(number): {"age": str(number)} for number in range(30)}
    with pytest.raises(TreeError, match="30 different values"):
        load_labels(many, "age")
    with pytest.raises(TreeError, match="1 class"):
        load_labels({"1": {"x": "a"}, "2": {"x": "a"}}, "x")


def test_broken_tables_say_what_is_wrong_without_ids(tmp_path):
    path = tmp_path / "participants.tsv"
    cases = {
        "": "is empty",
        "participant_id\tage\n": "no rows",
        "name\tage\nx\t3\n": "participant_id or person_id",
        "participant_id\n1001\n1001\n": "line 3 repeats",
        "participant_id\tage\n\t5\n": "line 2 has no participant_id",
        "participant_id\tage\n1001\t4\t5\n": "line 2 has 3 cells for 2",
        'participant_id\tage\n10"01\t4\n': "line 2 has a stray quote in its participant_id",
    }
    for content, words in cases.items():
        path.write_text(content)
        with pytest.raises(TreeError, match=words) as caught:
            read_participants(path)
        assert "1001" not in str(caught.value)
    path.write_bytes(b"participant_id\n\xff\xfe\n")
    with pytest.raises(TreeError, match="not a text table"):
        read_participants(path)
    with pytest.raises(TreeError, match="no participants table"):
        read_participants(tmp_path / "none")
