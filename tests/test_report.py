"""The page, its figures, and what the pages of all runs have alike."""

import re

import numpy as np
import pytest
from oct_report import (
    BScan,
    Curve,
    Page,
    Score,
    begin_page,
    draw_features,
    draw_masks,
    end_page,
    plot_curves,
    plot_scores,
)

PNG = b"\x89PNG\r\n\x1a\n"
BSCAN = BScan(np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1)), depth=2.0, width=6.0)
NASTY = "<script>alert('x')</script> & \"quoted\""


def size_of(png):
    """Width and height that a PNG states in its first chunk."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def assert_is_a_figure(png):
    assert png.startswith(PNG)
    width, height = size_of(png)
    assert 1200 <= width <= 1600, "fills the page on a sharp screen"
    assert 150 <= height <= 4000
    assert 3_000 < len(png) < 1_000_000


def fill(page, text):
    page.note(text)
    page.tiles({text: text})
    page.section(text, text)
    page.table((text, "b"), [(text, "1"), ("c", "2")], best=[1])
    page.figure(PNG, text)
    page.code(text)


def test_a_page_escapes_every_text_that_it_is_given(tmp_path):
    page = Page(NASTY, NASTY)
    fill(page, NASTY)
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text
    assert "alert('x')" not in text
    assert text.count("&lt;script&gt;") == 13
    assert 'alt="&lt;script' in text


def test_a_page_is_one_file_that_asks_for_no_other(tmp_path):
    page = Page("Run", "lead")
    fill(page, "text")
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert re.findall(r'src="([^"]{10})', text) == ["data:image"]
    assert not re.search(r"href=|<script|<link|@import|url\(|https?:", text)


def test_a_page_closes_what_it_opens_also_when_sections_follow_each_other(tmp_path):
    page = Page("Run", "lead")
    for name in ("one", "two", "three"):
        page.section(name)
        page.text(name)
    page.write(tmp_path / "page.html")
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count("<section>") == text.count("</section>") == 3


def test_the_best_rows_of_a_table_stand_out(tmp_path):
    page = Page("Run", "lead")
    page.table(("a",), [("0.5",), ("0.9",)], best=[1])
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert '<td class="best">0.9</td>' in text
    assert "<td>0.5</td>" in text


@pytest.mark.parametrize("count", [1, 4])
def test_curves_become_a_png(count):
    curves = [Curve(f"c{i}", [1, 2, 3], [0.1, 0.3, 0.2], "hint") for i in range(count)]
    assert_is_a_figure(plot_curves(curves))


def test_a_run_of_one_step_still_has_curves():
    assert_is_a_figure(plot_curves([Curve("loss", [1], [0.8], "hint")]))


def test_masks_and_features_become_a_png():
    hidden = np.zeros((6, 4), dtype=bool)
    hidden[2:4, 1:3] = True
    assert_is_a_figure(draw_masks(BSCAN, [hidden, ~hidden], ["mask 1", "mask 2"]))
    colours = np.random.default_rng(0).random((6, 4, 3))
    assert_is_a_figure(draw_features(BSCAN, [("trained", colours), ("random", colours)]))


def test_scores_become_a_png_also_where_a_name_has_no_score_in_a_group():
    scores = [
        Score("thin", "trained", "mean", 0.9, 0.8, 0.95),
        Score("thin", "trained", "max", 0.8, 0.7, 0.95),
        Score("thin", "profile", "", 0.6, 0.5, 0.7),
        Score("fluid", "trained", "mean", 0.7, 0.7, 0.7),
    ]
    assert_is_a_figure(plot_scores(scores, label="AUROC", chance=0.5))


def test_equal_figures_are_equal_bytes():
    curves = [Curve("loss", [1, 2], [0.8, 0.7], "hint")]
    assert plot_curves(curves) == plot_curves(curves)


def test_a_page_of_a_run_ends_with_what_repeats_it(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 7\n")
    page = begin_page("Run", "lead", made_up=False)
    page.table(("who",), [("max",)], best=[0])
    assert end_page(page, tmp_path, "the run") == tmp_path / "report.html"
    text = (tmp_path / "report.html").read_text()
    assert text.count('<td class="best">max</td>') == 1
    assert "repeats the run." in text
    assert text.index("seed: 7") > text.index("max")
    assert "Phantom" not in text


def test_made_up_data_is_told_at_the_top(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    page = begin_page("Run", "lead", made_up=True)
    end_page(page, tmp_path, "the run")
    assert "Phantom: every scan" in (tmp_path / "report.html").read_text()
