"""Age, sex, severity and follow-up of made-up participants, and what they go with."""

from dataclasses import replace

import numpy as np
from oct_io import PhantomTree, write_phantom_tree
from oct_io.catalog.tables import read_table
from oct_io.phantom.grid import Grid
from oct_io.phantom.history import history_row, thickness_score, tie_ages
from oct_io.phantom.retina import Anatomy, draw_retina
from oct_io.phantom.tables import draw_people

SMALL = PhantomTree(participants=4, shape=(3, 24, 16), jobs=1, eyes=("R",))


def people(count=300, seed=0):
    return draw_people(count, seed=seed, prevalence=0.5, split_fractions=(0.6, 0.1, 0.3))


def drawn_thickness(person):
    """Micrometres from the inner limiting membrane to Bruch's, as the eye is drawn."""
    layers = draw_retina(Grid.of((4, 8, 8), (6, 1.1, 6), 1), Anatomy(), person.seed, "R")
    return sum(one.mean() for name, one in layers.thickness_um.items() if name != "choroid")


def test_the_older_have_thinner_retinas_where_voxels_tell_and_else_nothing():
    crowd = people()
    thickness = [drawn_thickness(one) for one in crowd]
    tied, free = (tie_ages(crowd, shown=shown) for shown in (True, False))
    assert np.corrcoef(thickness, [one.age for one in tied])[0, 1] < -0.6
    assert abs(np.corrcoef(thickness, [one.age for one in free])[0, 1]) < 0.15
    for group in (tied, free):
        ages = np.array([one.age for one in group])
        assert 40 <= ages.min() < 45 < 80 < ages.max() < 85
        assert abs(ages.mean() - 62) < 3
    for name in ("fluid", "drusen", "thin"):
        ill = np.array([getattr(one, name) for one in tied])
        assert abs(np.corrcoef(ill, [one.age for one in tied])[0, 1]) < 0.15


def test_the_score_is_the_factor_that_the_layers_are_drawn_with():
    for person in people(20):
        thick = replace(Anatomy(), layer_sd=0.0, undulation_sd=0.0)
        grid = Grid.of((2, 2, 2), (6, 1, 6), 1)
        layer = draw_retina(grid, thick, person.seed, "L").thickness_um["rpe"]
        assert np.allclose(np.log(layer / 24.0), thick.thickness_sd * thickness_score(person.seed),
                           atol=1e-4)  # fmt: skip


def test_severity_counts_lesions_and_brings_events_earlier():
    crowd = people(600)
    rows = [history_row(one) for one in crowd]
    for person, row in zip(crowd, rows, strict=True):
        assert int(row["severity"]) == person.fluid + person.drusen + person.thin
        assert 0 < float(row["years"]) <= 8
    share = {
        grade: np.mean([row["event"] == "TRUE" for row in rows if row["severity"] == grade])
        for grade in "0123"
    }
    assert share["0"] + 0.1 < share["1"] < share["2"] < share["3"]
    assert 0.4 < np.mean([row["sex"] == "F" for row in rows]) < 0.6


def test_a_tree_of_before_gets_the_columns_it_lacks_and_no_other_file_changes(tmp_path):
    out = tmp_path / "t"
    write_phantom_tree(out, SMALL)
    whole = (out / "participants.tsv").read_text()
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.dcm")}
    lines = [line.rsplit("\t", 4)[0] for line in whole.splitlines()]
    (out / "participants.tsv").write_text("\n".join(lines) + "\n")
    assert "severity" not in read_table(out / "participants.tsv")[0]
    write_phantom_tree(out, SMALL)
    assert (out / "participants.tsv").read_text() == whole
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.dcm")} == before
