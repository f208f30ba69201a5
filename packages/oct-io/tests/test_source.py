"""From a folder to volumes with labels: splits by participant, exclusions, and errors that help."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from oct_io import (
    PhantomTree,
    SourceConfig,
    TreeError,
    hash_participant,
    open_source,
    write_phantom_tree,
)
from oct_io.catalog.participants import read_participants
from oct_io.labels.questions import LabelQuestion
from oct_io.labels.splits import Split, write_split

TREE = PhantomTree(
    participants=12, shape=(4, 40, 32), split_fractions=(0.5, 0.0, 0.5), devices=("phantom_a",),
    jobs=1,
)  # fmt: skip


def people_of(volumes):
    return {entry.participant for entry in volumes.entries}


def scans(scan_file, count, folder="scans"):
    """A plain folder: two eyes of each participant, and no table beside them."""
    for number in range(count):
        for eye in "LR":
            scan_file(
                f"{folder}/{number}{eye}.dcm", laterality=eye, participant_id=f"{700 + number}"
            )


def write_table(path, rows, columns="participant_id,seen"):
    path.write_text("\n".join([columns, *rows]) + "\n")
    return str(path)


@pytest.fixture
def open_folder(tmp_path):
    """Opens a folder of scans at the tiny window."""

    def open_folder(root="scans", **settings):
        cache = str(tmp_path / "cache")
        config = SourceConfig(
            root=str(tmp_path / root), window="tiny", cache=cache, jobs=1, **settings
        )
        return open_source(config)

    return open_folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A phantom tree and the source that is opened on it."""
    place = tmp_path_factory.mktemp("drawn")
    told = []
    config = SourceConfig(
        root=str(place / "tree"), window="tiny", cache=str(place / "cache"), phantom=TREE, jobs=1
    )
    source = open_source(config, lambda *what: told.append(what))
    return place, source, told


def test_a_phantom_is_drawn_resampled_and_reported_step_by_step(drawn):
    _, source, told = drawn
    assert source.made_up
    assert len(source.volumes) == 24
    assert source.volumes.shape == (8, 64, 64)
    assert told[0][0] == "drawing phantoms"
    assert told[-1] == ("resampling scans", 24, 24)


def test_opening_the_same_source_again_reads_the_same_cache(drawn):
    place, source, _ = drawn
    config = SourceConfig(
        root=str(place / "tree"), window="tiny", cache=str(place / "cache"), phantom=TREE, jobs=1
    )
    told = []
    again = open_source(config, lambda *what: told.append(what))
    assert told == []
    assert again.volumes.fingerprint == source.volumes.fingerprint


def test_the_recommended_split_divides_participants_and_never_a_participant(drawn):
    place, source, _ = drawn
    examples = source.labelled("thin")
    table = read_participants(place / "tree")
    test = {hash_participant(k) for k, row in table.items() if row["recommended_split"] == "test"}
    held_out = set(examples.participants[examples.held_out].tolist())
    assert held_out == test
    assert not held_out & set(examples.participants[~examples.held_out].tolist())
    assert examples.split_rule == "recommended_split test"
    assert "train 12 volumes of 6 participants, test 12 volumes of 6" in examples.describe()
    for label, person in zip(examples.labels, examples.participants, strict=True):
        row = next(row for key, row in table.items() if hash_participant(key) == person)
        assert examples.classes[label] == row["thin"].lower()


def test_pretraining_sees_nobody_of_the_excluded_splits(drawn):
    _, source, _ = drawn
    seen = source.outside(["test"])
    excluded = source.excluded_participants(["test"])
    assert len(seen) == 12
    assert len(excluded) == 6
    assert excluded == sorted(excluded)
    assert not {source.volumes.entries[i].participant for i in seen} & set(excluded)
    assert list(source.outside([])) == list(range(24))
    assert source.excluded_participants([]) == []


def test_a_source_describes_who_is_trained_on_and_who_is_not_in_plain_values(drawn):
    _, source, _ = drawn
    seen = source.outside(["test"])
    facts = source.describe(seen, ["test"])
    assert json.loads(json.dumps(facts)) == facts
    counts = ("volumes", "volumes_in_training", "scans_refused")
    assert [facts[name] for name in counts] == [24, 12, 0]
    assert facts["participants_in_training"] == source.participants(seen)
    assert facts["excluded_participants"] == source.excluded_participants(["test"])
    assert not set(facts["participants_in_training"]) & set(facts["excluded_participants"])
    assert facts["dataset_fingerprint"] == source.volumes.fingerprint
    assert facts["made_up_data"] is True
    assert facts["dataset_version"] == source.version


def test_whose_a_scan_is_its_file_says_where_the_manifest_does_not(
    open_folder, scan_file, tmp_path
):
    rows = ["participant_id\tfilepath"]
    for number in range(8):
        owner, stated = str(1001 + number // 2), "" if number > 4 else str(1001 + number // 2)
        held = "" if number == 7 else f"{owner}.0"
        scan_file(f"scans/{number}.dcm", participant_id=held)
        rows.append(f"{stated}\t{number}.dcm")
    folder = tmp_path / "scans" / "retinal_oct"
    folder.mkdir()
    (folder / "manifest.tsv").write_text("\n".join(rows) + "\n")
    people = ("1001,train", "1002,val", "1003,test")
    write_table(tmp_path / "scans" / "participants.csv", people, "participant_id,recommended_split")
    source = open_folder()
    numbers = source.outside(["test"])
    test = {hash_participant("1003")}
    assert len(numbers) == 6
    assert not set(source.participants(numbers)) & test
    assert [one.split(",")[0] for one in source.remarks] == [
        "1 of 4 participants with scans are in no part of the split (recommended_split); they are "
        "learned from like those who train",
        "1 of 8 scans are of nobody that a manifest or their files name",
    ]


def test_excluding_everybody_is_an_error_that_says_what_to_set(drawn):
    _, source, _ = drawn
    with pytest.raises(TreeError, match=r"all 24 volumes .* data.excluded_splits=\[\]"):
        source.outside(["train", "test"])


def test_a_test_split_that_nobody_is_in_is_an_error(drawn):
    _, source, _ = drawn
    with pytest.raises(TreeError, match="0 of them in the test split 'val'"):
        source.labelled("thin", test_split="val")


def test_an_unknown_column_is_an_error_that_names_those_there_are(drawn):
    _, source, _ = drawn
    with pytest.raises(TreeError, match=r"no label column 'glaucoma'.*drusen"):
        source.labelled("glaucoma")


def test_the_measured_intensity_is_that_of_the_voxels_that_were_asked_for(drawn):
    _, source, _ = drawn
    mean, std = source.measure_intensity([1, 5])
    voxels = np.stack([source.volumes[1], source.volumes[5]]).astype(np.float64)
    assert mean == pytest.approx(voxels.mean())
    assert std == pytest.approx(voxels.std())


def test_the_intensity_is_measured_from_one_end_of_many_volumes_to_the_other(drawn, monkeypatch):
    _, source, _ = drawn
    monkeypatch.setattr("oct_io.source.MEASURED_VOLUMES", 4)
    assert source.measure_intensity(range(7)) == source.measure_intensity([0, 1, 3, 5])
    assert source.measure_intensity(range(8)) == source.measure_intensity([0, 2, 4, 6])


def test_the_fingerprint_of_labelled_volumes_tells_other_volumes_and_another_order(drawn):
    _, source, _ = drawn
    thin, fluid = source.labelled("thin"), source.labelled("fluid")
    assert thin.fingerprint == fluid.fingerprint, "the same volumes, another question"
    turned = replace(thin, volumes=thin.volumes.select([1, 0, *range(2, 24)]))
    fewer = replace(thin, volumes=thin.volumes.select(range(23)))
    assert len({thin.fingerprint, turned.fingerprint, fewer.fingerprint}) == 3


def test_nothing_a_source_holds_or_writes_names_a_participant_or_a_path(drawn, tmp_path):
    place, source, _ = drawn
    source.write_quarantine(tmp_path / "quarantine.jsonl")
    assert (tmp_path / "quarantine.jsonl").read_text() == ""
    ids = set(read_participants(place / "tree"))
    written = [path.read_bytes().decode("latin-1") for path in (place / "cache").glob("*.json*")]
    texts = [*written, repr(source.volumes.entries), repr(source.labelled("thin").participants)]
    for text in texts:
        assert "retinal_oct" not in text
        assert not any(f'"{one}"' in text or f"/{one}/" in text for one in ids)
    assert not ids & set(source.table)


def test_a_table_without_a_split_holds_out_a_quarter_of_the_participants_of_each_class(
    scan_file, open_folder, tmp_path
):
    scans(scan_file, 20)
    rows = [f"{700 + number},{'no' if number < 12 else 'yes'}" for number in range(20)]
    source = open_folder(labels=write_table(tmp_path / "labels.csv", rows))
    examples = source.labelled("seen")
    assert examples.held_out.sum() == 2 * 5
    assert examples.labels[examples.held_out].tolist().count(1) == 2 * 2
    test, train = (
        set(examples.participants[side].tolist())
        for side in (examples.held_out, ~examples.held_out)
    )
    assert not test & train
    assert examples.split_rule == "first of 4 folds balanced by class and site"
    assert list(source.outside(["test"])) == list(range(40)), "no recommended split excludes nobody"
    again = open_folder(labels=write_table(tmp_path / "labels.csv", rows[::-1])).labelled("seen")
    assert (again.held_out == examples.held_out).all(), "the order of the table does not matter"


def test_participants_without_a_label_take_no_part(scan_file, open_folder, tmp_path):
    scans(scan_file, 8)
    rows = [f"{700 + n},{('no', 'yes')[n % 2] if n < 7 else ''}" for n in range(8)]
    examples = open_folder(labels=write_table(tmp_path / "labels.csv", rows)).labelled("seen")
    assert len(examples.volumes) == len(examples.labels) == 14
    assert hash_participant("707") not in examples.participants


def test_a_folder_without_a_table_can_be_pretrained_on_but_not_asked(scan_file, open_folder):
    scans(scan_file, 2)
    source = open_folder()
    assert list(source.outside(["test"])) == [0, 1, 2, 3]
    assert not source.made_up
    with pytest.raises(TreeError, match=r"no label table: give data.labels=FILE.*participant_id"):
        source.labelled("seen")


def test_a_broken_scan_costs_one_line_of_the_quarantine(scan_file, open_folder, tmp_path):
    scans(scan_file, 2)
    (tmp_path / "scans" / "broken.dcm").write_bytes(b"no scan at all" * 100)
    source = open_folder()
    assert len(source.volumes) == 4
    source.write_quarantine(tmp_path / "quarantine.jsonl")
    lines = (tmp_path / "quarantine.jsonl").read_text().splitlines()
    assert len(lines) == 1
    refusal = json.loads(lines[0])
    assert refusal["path"] == "broken.dcm"
    assert refusal["stage"]
    assert "\n" not in refusal["reason"]


def test_too_many_broken_scans_stop_with_their_number_and_no_name(scan_file, open_folder, tmp_path):
    scans(scan_file, 1)
    for number in range(3):
        (tmp_path / "scans" / f"secret{number}.dcm").write_bytes(b"no scan at all" * 100)
    with pytest.raises(TreeError, match=r"of 5 scans cannot be used") as caught:
        open_folder()
    assert "secret" not in str(caught.value)
    assert len(people_of(open_folder(max_bad_fraction=0.9).volumes)) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"root": ""}, "data.root is not set"),
        ({"root": "somewhere", "cache": ""}, "data.cache is not set"),
        ({"root": "nowhere-at-all", "cache": "cache"}, "nowhere-at-all: no such folder"),
    ],
)
def test_a_source_that_is_not_told_where_says_which_setting(
    tmp_path, monkeypatch, settings, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TreeError, match=message):
        open_source(SourceConfig(window="tiny", **settings))


def test_settings_that_cannot_be_are_refused_by_name():
    with pytest.raises(ValueError, match=r"data.window \(giant\) must be one of .*macula6"):
        SourceConfig(window="giant")
    with pytest.raises(ValueError, match=r"data.max_bad_fraction \(2\)"):
        SourceConfig(max_bad_fraction=2)


def test_equal_defaults_are_not_shared_between_two_settings():
    one, other = SourceConfig(), SourceConfig()
    one.excluded_splits.append("val")
    assert other.excluded_splits == ["test"]


def scans_of(scan_file, devices, folder="scans"):
    """A plain folder: both eyes of one participant on each device."""
    for number, device in enumerate(devices):
        for eye in "LR":
            region = ("Macula", "Optic Disc")[number % 2]
            scan_file(
                f"{folder}/{device}{eye}.dcm", laterality=eye, device=device, region=region,
                participant_id=f"{('1', '4', '7')[number]}00{number}",
            )  # fmt: skip


DOMAINS = ("topcon_triton", "zeiss_cirrus", "heidelberg_spectralis")


def test_a_single_domain_is_one_device_and_a_multi_domain_several(scan_file, open_folder):
    scans_of(scan_file, DOMAINS)

    def devices(**settings):
        return Counter(one.device for one in open_folder(**settings).volumes.entries)

    assert devices(devices=["zeiss_cirrus"]) == {"zeiss_cirrus": 2}
    assert devices(devices=["zeiss_cirrus", "topcon_triton"]) == {
        "zeiss_cirrus": 2, "topcon_triton": 2,
    }  # fmt: skip
    four = [*DOMAINS, "topcon_maestro2"]
    assert devices(devices=four) == dict.fromkeys(DOMAINS, 2), "one list for every release"
    assert devices(lateralities=["OD"]) == dict.fromkeys(DOMAINS, 1)
    assert sum(devices().values()) == 6
    assert open_folder(lateralities=["OD"]).unselected == 3
    assert open_folder().unselected == 0


def test_a_device_or_region_that_nobody_knows_is_named_with_those_there_are(scan_file, open_folder):
    scans_of(scan_file, DOMAINS)
    with pytest.raises(
        TreeError, match=r"no scan has device 'tritonn'; there are .*'zeiss_cirrus'"
    ):
        open_folder(devices=["tritonn"])
    with pytest.raises(TreeError, match="no scan has region 'Maculla'"):
        open_folder(regions=["Maculla"])
    with pytest.raises(TreeError, match="none of 6 scans is of the devices, regions, eyes"):
        open_folder(devices=["topcon_maestro2"])
    with pytest.raises(ValueError, match=r"data.lateralities \(both\) must be R or L"):
        SourceConfig(lateralities=["both"])


def test_device_site_and_eye_can_be_asked_for_as_labels(scan_file, open_folder, tmp_path):
    for number in range(6):
        for eye in "LR":
            scan_file(
                f"scans/{number}{eye}.dcm", laterality=eye, device=DOMAINS[number % 2],
                participant_id=f"{'14'[number // 3]}00{number}",
            )  # fmt: skip
    rows = [f"{'14'[n // 3]}00{n},{'no' if n % 2 else 'yes'}" for n in range(6)]
    source = open_folder(labels=write_table(tmp_path / "labels.csv", rows))
    site = source.labelled("@site")
    assert site.classes == ("ucsd", "uw")
    assert Counter(site.labels.tolist()) == {0: 6, 1: 6}
    device = source.labelled("@device")
    assert device.classes == ("topcon_triton", "zeiss_cirrus")
    eye = source.labelled("@eye")
    assert eye.classes == ("l", "r")
    for examples in (site, device, eye):
        test = set(examples.participants[examples.held_out].tolist())
        assert test
        assert not test & set(examples.participants[~examples.held_out].tolist())


def test_a_split_from_a_table_decides_who_is_trained_on_and_who_is_tested(
    scan_file, open_folder, tmp_path
):
    scans(scan_file, 6)
    labels = write_table(
        tmp_path / "l.csv", [f"{700 + n},{'yes' if n % 2 else 'no'}" for n in range(6)]
    )
    people = [hash_participant(f"{700 + n}") for n in range(6)]
    parts = {f"fold-{n}": frozenset(people[2 * n : 2 * n + 2]) for n in range(3)}
    write_split(tmp_path / "split.tsv", Split(parts=parts, rule="mine"))
    source = open_folder(labels=labels, split=str(tmp_path / "split.tsv"))
    examples = source.labelled("seen", test_split="fold-1")
    assert set(examples.participants[examples.held_out].tolist()) == parts["fold-1"]
    assert examples.split_rule == "mine fold-1"
    with pytest.raises(TreeError, match="no part 'test', only fold-0, fold-1, fold-2; say test_sp"):
        source.labelled("seen")
    assert source.excluded_participants(["fold-1"]) == sorted(parts["fold-1"])
    kept = source.outside(["fold-1"])
    assert source.participants(kept) == sorted(set(people) - parts["fold-1"])
    with pytest.raises(
        TreeError, match="excluded_splits: 'test' is none of fold-0, fold-1, fold-2"
    ):
        source.outside(["test"])


def test_a_misspelt_split_is_not_taken_for_one_with_nobody_in_it(drawn):
    _, source, _ = drawn
    with pytest.raises(TreeError, match="excluded_splits: 'tets' is none of train, val, test"):
        source.outside(["tets"])


def test_a_class_of_one_participant_cannot_be_split(scan_file, open_folder, tmp_path):
    scans(scan_file, 4)
    rows = [f"{700 + n},{'yes' if n else 'no'}" for n in range(4)]
    source = open_folder(labels=write_table(tmp_path / "labels.csv", rows))
    with pytest.raises(
        TreeError, match="'seen': a class has 1 participants with scans; it takes two"
    ):
        source.labelled("seen")


def test_a_label_table_of_another_release_is_refused_unless_told_otherwise(tmp_path):
    spec = replace(TREE, participants=6, manifest_version=3)
    root = tmp_path / "tree"
    write_phantom_tree(root, spec)
    table = (root / "participants.tsv").read_text().replace("person_id", "participant_id", 1)
    (tmp_path / "second.tsv").write_text(table)
    config = SourceConfig(
        root=str(root), window="tiny", cache=str(tmp_path / "cache"), jobs=1,
        labels=str(tmp_path / "second.tsv"),
    )  # fmt: skip
    with pytest.raises(TreeError, match=r"second.tsv: is of release 2 .*release 3"):
        open_source(config)
    assert open_source(replace(config, mixed_releases=True)).version == 3
    own = "\n".join(line.rsplit("\t", 4)[0] for line in table.splitlines())
    assert "recommended_split" in own
    (tmp_path / "second.tsv").write_text(own.replace("recommended_split", "group"))
    assert open_source(config).split is None, "an own table without a recommended split goes"


def test_left_eyes_are_mirrored_on_request_in_a_cache_of_their_own(scan_file, open_folder):
    scans(scan_file, 1)
    plain = [np.array(one) for one in open_folder().volumes]
    mirrored = open_folder(mirror_left=True).volumes
    eyes = [entry.laterality for entry in mirrored.entries]
    assert sorted(eyes) == ["L", "R"]
    for eye, before, after in zip(eyes, plain, mirrored, strict=True):
        assert np.array_equal(after, before[:, :, ::-1] if eye == "L" else before)
    assert mirrored.window.mirror_left


def test_a_window_without_one_shape_is_refused_as_a_setting():
    with pytest.raises(ValueError, match="window native keeps the shape of each scan"):
        SourceConfig(window="native")


def test_clinical_tables_give_labels_with_the_rule_beside_them(tmp_path, scan_file, open_folder):
    scans(scan_file, 8)
    write_table(
        tmp_path / "scans/participants.tsv",
        [f"{700 + n}\t{'test' if n < 4 else 'train'}" for n in range(8)],
        "person_id\trecommended_split",
    )
    clinical = tmp_path / "scans/clinical_data"
    clinical.mkdir()
    names = "person_id,measurement_concept_id,measurement_date,value_as_number"
    rows = [
        f"{700 + n},3004410,2024-01-0{day},{5 + n % 2 + int(day)}" for n in range(8) for day in "21"
    ]
    write_table(clinical / "measurement.csv", rows, names)
    concepts = write_table(
        tmp_path / "concepts.csv",
        ["sugar,measurement,last,3004410,7.5", "level,measurement,last,3004410,"],
        "column,table,rule,concept_ids,cuts",
    )
    source = open_folder(labels=str(clinical), label_concepts=concepts)
    found = source.labelled("sugar")
    assert found.classes == ("0", "1")
    assert found.split_rule == "recommended_split test"
    assert len(found.volumes) == 16
    level = source.labelled(LabelQuestion(column="level", kind="regression", unit="per cent"))
    assert level.values.tolist() == [5 + n % 2 + 2 for n in range(8) for _ in "LR"]
    assert source.label_rules["sugar"].startswith("last value by date, cut at 7.5; measurement")
    with pytest.raises(TreeError, match=r"data\.label_concepts needs data\.labels=FOLDER"):
        open_folder(label_concepts=concepts)


@pytest.mark.parametrize(
    ("eyes", "mirror", "told"), [("RL", False, True), ("RL", True, False), ("RR", False, False)]
)
def test_left_eyes_beside_right_ones_are_advised_on_unless_they_are_mirrored(
    eyes, mirror, told, scan_file, open_folder
):
    for number, eye in enumerate(eyes):
        scan_file(f"scans/{number}.dcm", participant_id="700", laterality=eye)
    scan_file("scans/other.dcm", participant_id="701", laterality="L")
    said = open_folder(mirror_left=mirror).advice
    assert bool(said) == told
    assert all(one.startswith("both eyes of 1 participants are here, left") for one in said)
