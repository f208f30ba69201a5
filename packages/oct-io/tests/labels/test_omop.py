"""Clinical tables in long form become one row a participant, by rules that are written down."""

import csv
from dataclasses import replace

import pytest
from oct_io import TreeError, hash_participant, load_labels
from oct_io.catalog.participants import read_participants
from oct_io.labels.concepts import AI_READI, COLUMNS, Concept, read_concepts
from oct_io.labels.omop import join_participants, read_omop

HBA1C = "import_hba1c, Hemoglobin A1c/Hemoglobin.total in "
PRESSURES = (("bp1_sysbp_vsorres", "121"), ("bp2_sysbp_vsorres", "119"))

PERSON = ["person_id", "year_of_birth", "month_of_birth", "day_of_birth"]
VISIT = ["visit_occurrence_id", "person_id", "visit_start_date"]
MEASUREMENT = [
    "", "X", "measurement_id", "person_id", "measurement_concept_id", "measurement_date",
    "operator_concept_id", "value_as_number", "visit_occurrence_id", "measurement_source_value",
]  # fmt: skip
OBSERVATION = [
    "observation_id", "person_id", "observation_concept_id", "observation_date",
    "value_as_number", "value_as_string", "visit_occurrence_id", "observation_source_value",
]  # fmt: skip
CONDITION = [
    "condition_occurrence_id", "person_id", "condition_concept_id", "condition_start_date",
    "visit_occurrence_id", "condition_source_value",
]  # fmt: skip


def write(path, names, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(names)
        writer.writerows(rows)


def measured(person, day, value, *, concept=3004410, operator="4172703", visit="", item=HBA1C):
    return ["1", "1", "9", person, concept, day, operator, value, visit, item]


@pytest.fixture(params=[".csv", ".tsv"])
def clinical(tmp_path, request):
    """Four participants, of whom the last has no events; comments say what a row is here to try."""
    folder, end = tmp_path / "clinical_data", request.param
    folder.mkdir()
    write(folder / f"person{end}", PERSON, [
        ["1001", "1960", "", ""], ["1002", "1970", "4", "1"], ["4003", "1950", "", ""],
        ["7004", "", "", ""],
    ])  # fmt: skip
    write(folder / f"visit_occurrence{end}", VISIT, [
        ["51", "1001", "2023-07-01"], ["52", "1001", "2024-07-01 08:00:00"],
        ["53", "1002", "2024-04-01"],
    ])  # fmt: skip
    write(folder / f"measurement{end}", MEASUREMENT, [
        measured("1001", "2024-07-01", "7.5", visit="52"),  # the last, although not at the end
        measured("1001.0", "2023-07-01", "5.5", visit="51"),
        measured("1002", "2024-04-01", "999.0", visit="53"),  # refused to say
        measured("4003", "2024-01-01", "4.0", operator="4171756"),  # below the limit of detection
        measured("4003", "2024-01-02 00:00:00", "6.0"),
        measured("4003", "", "5.0"),  # without a date: before all others
        *(measured("1001", "2024-07-01", v, concept=3004249, item=f"{i}, Systolic (mmHg)")
          for i, v in PRESSURES),
    ])  # fmt: skip
    write(folder / f"observation{end}", OBSERVATION, [
        ["1", "1001", "77", "2024-07-01", "50", "", "52", "mh_dm_age, Age diagnosed"],
        ["2", "1002", "77", "2024-04-01", "99", "", "53", "mh_dm_age, Age diagnosed"],
        ["3", "1001", "78", "2024-07-01", "", "Yes", "52", "smoker, Do you smoke?"],
        ["4", "1002", "78", "2024-07-01", "", "No", "53", "smoker, Do you smoke?"],
        ["5", "4003", "78", "2024-07-01", "", "do not know", "0", "smoker, Do you smoke?"],
    ])  # fmt: skip
    write(folder / f"condition_occurrence{end}", CONDITION, [
        ["1", "1001", "201826", "2020-07-01", "51", "mhterm_dm2, Type II diabetes"],
        ["2", "1001", "201826", "2022-07-01", "52", "mhterm_dm2, Type II diabetes"],
    ])  # fmt: skip
    return folder


def column(table, name):
    return {who: row[name] for who, row in table.rows.items()}


def test_ai_readi_s_columns_are_made_without_being_asked_for(clinical):
    table = read_omop(clinical)
    assert column(table, "hba1c") == {"1001": "7.5", "1002": "", "4003": "6", "7004": ""}
    assert column(table, "hba1c_class") == {"1001": "2", "1002": "", "4003": "1", "7004": ""}
    assert column(table, "age_at_visit")["1002"] == "54.0014"
    assert column(table, "age_at_visit")["4003"] == "", "no visit says when"
    assert column(table, "diabetes_years") == {"1001": "14", "1002": "", "4003": "", "7004": ""}
    assert column(table, "type_2_diabetes") == {
        "1001": "TRUE", "1002": "FALSE", "4003": "FALSE", "7004": "FALSE",
    }  # fmt: skip
    assert set(table.rules) == {one.column for one in AI_READI}


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [("last", "7.5 6"), ("first", "5.5 5"), ("mean", "6.5 5.5"), ("any", "TRUE TRUE")],
)
def test_each_rule_makes_one_value_of_several(clinical, rule, wanted):
    concept = Concept(column="x", table="measurement", rule=rule, concept_ids=(3004410,))
    values = column(read_omop(clinical, [concept]), "x")
    assert f"{values['1001']} {values['4003']}" == wanted


@pytest.mark.parametrize("year", ["4294967296", "0", "-1", "1e15", "soon"])
def test_a_year_of_birth_that_is_none_leaves_the_age_open(clinical, year):
    table = next(path for path in clinical.iterdir() if path.stem == "person")
    table.write_text(table.read_text().replace("1970", year))
    ages = column(read_omop(clinical), "age_at_visit")
    assert (ages["1001"], ages["1002"]) == ("64", "")


def test_items_tell_questions_of_one_concept_apart(clinical):
    both = Concept(column="both", table="measurement", rule="mean", concept_ids=(3004249,))
    first = replace(both, column="first", items=("bp1_sysbp_vsorres",))
    row = read_omop(clinical, [both, first]).rows["1001"]
    assert row == {"both": "120", "first": "121"}


def test_years_are_counted_from_the_earliest_date(clinical):
    concept = Concept(
        column="years", table="condition_occurrence", rule="years_since_first",
        concept_ids=(201826,), cuts=(1, 5),
    )  # fmt: skip
    assert read_omop(clinical, [concept]).rows["1001"]["years"] == "1"
    assert read_omop(clinical, [replace(concept, cuts=())]).rows["1001"]["years"] == "4"


def test_words_are_yes_or_no_or_left_out_and_counted(clinical):
    concept = Concept(column="smoker", table="observation", rule="any", items=("smoker",))
    table = read_omop(clinical, [concept])
    assert column(table, "smoker") == {"1001": "TRUE", "1002": "FALSE", "4003": "", "7004": ""}
    assert load_labels(table.rows, "smoker") == {"1001": 1, "1002": 0}
    assert table.rules["smoker"] == (
        "whether any value is not 0; of conditions, whether there is one; observation item smoker; "
        "2 participants, 2 rows, left out 1 without a number"
    )


def test_the_rule_and_what_was_left_out_stand_beside_the_column(clinical):
    assert read_omop(clinical).rules["hba1c_class"] == (
        "last value by date, cut at 5.7, 6.5; measurement concept 3004410; 2 participants, 4 rows, "
        "left out 1 beyond a limit of detection, left out 1 coded as missing"
    )


def test_visits_and_events_are_kept_and_written_down_they_name_nobody(clinical):
    table = read_omop(clinical)
    assert [str(one.start) for one in table.visits] == ["2023-07-01", "2024-07-01", "2024-04-01"]
    assert table.visits[0].participant == hash_participant("1001")
    tests = [one for one in table.events if one.column == "hba1c"]
    assert [one.value for one in tests] == [7.5, 5.5, 6.0, 5.0]
    assert [one.visit for one in tests[:2]] == [table.visits[1].visit, table.visits[0].visit]
    assert tests[2].visit == "", "an empty visit and 0 are none"
    text = f"{table!r} {table.visits!r} {table.events!r}"
    for secret in ("1001", "2024", "2023", "'51'", "'52'"):
        assert secret not in text


def test_clinical_columns_are_joined_to_the_participants(clinical, tmp_path):
    place = tmp_path / "participants.tsv"
    place.write_text("person_id\tage\tstudy_group\n1001\t64\thealthy\n8008\t50\thealthy\n")
    people = join_participants(read_omop(clinical), place)
    assert list(people) == ["1001", "8008", "1002", "4003", "7004"]
    assert people["1001"] | {"@line": ""} == read_participants(place)["1001"] | {
        "@line": "", "hba1c": "7.5", "hba1c_class": "2", "bmi": "", "age_at_visit": "64",
        "diabetes_years": "14", "type_2_diabetes": "TRUE",
    }  # fmt: skip
    assert people["8008"]["hba1c"] == ""
    place.write_text("person_id\thba1c\n1001\t6\n")
    with pytest.raises(TreeError, match="has a column 'hba1c' of the concepts"):
        join_participants(read_omop(clinical), place)


def test_concepts_are_data_of_the_user(clinical, tmp_path):
    place = tmp_path / "concepts.csv"
    write(place, COLUMNS, [
        ["sugar", "measurement", "mean", "3004410 1", "", "", "6 7"],
        ["smoker", "observation", "any", "", "smoker", "", ""],
    ])  # fmt: skip
    concepts = read_concepts(place)
    assert concepts[0].concept_ids == (3004410, 1)
    assert concepts[0].cuts == (6, 7)
    assert read_omop(clinical, concepts).rows["1001"] == {"sugar": "1", "smoker": "TRUE"}


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ("x,measurement,last,abc,,,", "line 2: concept_ids must be whole numbers"),
        ("x,drug_exposure,last,1,,,", r"table \(drug_exposure\) must be one of measurement"),
        ("x,measurement,median,1,,,", r"rule \(median\) one of first"),
        ("x,measurement,age,1,,,", "rule age goes with table person"),
        ("x,measurement,last,,,,", "needs concept_ids or items"),
        ("x,measurement,last,1,,,7 6", "cuts must rise"),
        ("x,measurement,last,1,,no,", "missing must be numbers"),
        ("@x,measurement,last,1,,,", "without @ first"),
        ("x,person,age,,,,\nx,person,age,,,,", "the column 'x' is made twice"),
    ],
)
def test_a_concept_that_cannot_be_is_refused_with_its_line(clinical, tmp_path, cells, words):
    place = tmp_path / "concepts.csv"
    place.write_text(f"{','.join(COLUMNS)}\n{cells}\n")
    with pytest.raises(TreeError, match=words):
        read_omop(clinical, read_concepts(place))


def test_broken_clinical_tables_say_the_line_and_no_date(clinical, tmp_path):
    (path,) = clinical.glob("measurement.*")
    whole = [measured("1001", "2024-07-01", "7.5"), measured("1001", "07/01/2024", "7.5")]
    write(path, MEASUREMENT, whole)
    with pytest.raises(TreeError, match=r"line 3 has a date that is not like 2024-05-31") as caught:
        read_omop(clinical)
    assert "07/01" not in str(caught.value)
    write(path, MEASUREMENT, [measured("", "2024-07-01", "7.5")])
    with pytest.raises(TreeError, match="line 2 has no person_id"):
        read_omop(clinical)
    write(path, MEASUREMENT, [measured("1001", "2024-07-01", "9" * 5000)])
    assert "left out 1 without a number" in read_omop(clinical).rules["hba1c"]
    write(path, ["person_id", "measurement_date"], [])
    with pytest.raises(TreeError, match="has no column measurement_concept_id"):
        read_omop(clinical)
    path.unlink()
    with pytest.raises(TreeError, match=r"has no table measurement\.csv or \.tsv"):
        read_omop(clinical)
    with pytest.raises(TreeError, match=r"no OMOP tables; looked for person\.csv"):
        read_omop(tmp_path)
