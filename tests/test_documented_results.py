"""Tables of the pages are those of the results beside the benchmarks."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "findings.md"
SCALE = ROOT / "docs" / "scale.md"
RESULTS = ROOT / "benchmarks" / "results"


def null_rows():
    """The rows of the null phantom, as the page writes them."""
    rows = json.loads((RESULTS / "null_phantom.json").read_text(encoding="utf-8"))["rows"]
    of = {(one["mode"], bool(one["calibration_share"])): one for one in rows}
    for mode in dict.fromkeys(one["mode"] for one in rows):
        cells = [mode, str(of[mode, False]["seeds"])]
        for apart in (False, True):
            one = of[mode, apart]
            first, few = one.get("among_the_first", (0, one["seeds"]))
            more = f" ({first} of the first {few})" if few < one["seeds"] else ""
            cells.append(f"{one['intervals_that_hold_0.5']}{more}")
        cells += [f"{of[mode, apart]['conformal_covered']:.1%}" for apart in (False, True)]
        yield f"| {' | '.join(cells)} |".replace("%", " %")


def lacking(page, rows):
    """Those of the rows that are no line of a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return [one for one in rows if one not in lines]


def test_the_table_of_the_null_phantom_is_that_of_its_results():
    rows = list(null_rows())
    assert len(rows) == 8
    assert lacking(PAGE, rows) == []


def ratio_rows():
    """The rows of `ratios.json`, as the page of scale writes them."""
    found = json.loads((RESULTS / "ratios.json").read_text(encoding="utf-8"))
    for one in found["overhead"]:
        step = f"step of {one['bare_ms']:.1f} ms: median, lowest and highest of {one['runs']}"
        middle, low, high = one["fit"]
        what = f"`fit` over a bare loop, {step}"
        yield what, f"{middle:.3f} ({low:.3f} to {high:.3f})", f"{one['bound']:.2f}"
    feed, start = found["feed"], found["start"]
    what = "share of a 100 ms step that waits for the feed, median"
    yield what, f"{feed['median']:.4f}", f"{feed['bound']:g}"
    saves = {
        place: f"{one['beside']:.3f} / {one['waited for']:.3f} s = {one['ratio']:.3f}"
        for place, one in found["saves"].items()
    }
    what = "all that a save beside the training costs, over one waited for: disk"
    yield what, saves["disk"], ""
    yield "the same: S3", saves["s3"], ""
    both = f"disk {saves['disk']}, S3 {saves['s3']}"
    yield "the same with nothing else to do", both, "`ratios.json`, 4 saves each"
    what = "the app before the end of its first step"
    yield what, f"{start['clock_s']:.2f} s, {start['cpu_s']:.2f} of CPU", ""
    what = "weights, teacher and moments of a process, `fsdp` on two over `ddp`"
    yield what, f"{found['memory']['ratio']:.2f}", ""


def test_what_the_loop_promises_is_what_was_measured_in_one_run():
    rows = [f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in ratio_rows()]
    assert len(rows) == 8
    assert lacking(SCALE, rows) == []


def trend_rows():
    """The rows of `trend_extrapolated.json`, as the page of findings writes them."""
    found = json.loads((RESULTS / "trend_extrapolated.json").read_text(encoding="utf-8"))["rows"]
    of = {(one["question"], one["labels"], one["changed"]): one for one in found}
    for question, name in (("dme", "oedema"), ("dr", "any retinopathy")):
        for share, labels in (("all", "all labels"), ("a tenth", "a tenth")):
            rows = [of[question, share, changed] for changed in ("steps", "width", "patients")]
            lines = [f"{one['a_doubling']:+.3f} ({one['standard_error']:.3f})" for one in rows]
            left = f"{rows[0]['left_above_random_init']:.3f}"
            yield f"| {' | '.join([f'{name}, {labels}', *lines, left])} |"


def test_the_lines_through_the_trends_are_those_of_their_results():
    rows = list(trend_rows())
    assert len(rows) == 4
    assert lacking(PAGE, rows) == []


def test_every_result_names_a_program_that_is_here():
    files = sorted(RESULTS.glob("*.json"))
    commands = {one.name: json.loads(one.read_text(encoding="utf-8"))["command"] for one in files}
    programs = {name: re.search(r"benchmarks/\w+\.py", text) for name, text in commands.items()}
    assert len(programs) >= 40
    gone = [name for name, one in programs.items() if not (one and (ROOT / one[0]).is_file())]
    assert gone == []


def test_every_drill_that_is_written_down_is_here_and_says_its_commit():
    drills = json.loads((RESULTS / "drills.json").read_text(encoding="utf-8"))["drills"]
    assert len(drills) >= 20
    for name, one in drills.items():
        file, _, test = name.partition("::")
        assert f"def {test.partition('[')[0]}(" in (ROOT / file).read_text(encoding="utf-8"), name
        assert re.fullmatch(r"[0-9a-f]{40}\+?", one["commit"]), name


def equality_rows():
    """How far twenty losses of V-JEPA 2 lay apart, as the page of scale writes it."""
    drills = json.loads((RESULTS / "drills.json").read_text(encoding="utf-8"))["drills"]
    name = "tests/test_equality.py::test_many_devices_have_the_losses_of_one_process"
    ways = [(parallel, parts) for parallel in ("ddp", "fsdp") for parts in (1, 2)]
    for backend, count in [("gloo", 2), ("gloo", 4), *(("xla", n) for n in (1, 2, 4, 8))]:
        found = [drills[f"{name}[{backend}-{count}-{way}-{parts}]"]["apart"] for way, parts in ways]
        cells = [f"{max(one[k] for k in one if k.startswith('loss')):.1e}" for one in found]
        what = "gloo processes" if backend == "gloo" else "XLA devices"
        yield f"| {count} {what.removesuffix('s') if count == 1 else what} | {' | '.join(cells)} |"


def test_how_far_losses_lie_apart_is_what_the_drill_has_told():
    rows = list(equality_rows())
    assert len(rows) == 6
    assert lacking(SCALE, rows) == []


NUMBER = r"([+-]?\d+\.\d+)"
BEHIND = re.compile(rf"{NUMBER}\*{{0,2}} \({NUMBER} to {NUMBER}")  # 0.938 (0.906 to 0.964)
BESIDE = re.compile(rf"\({NUMBER}, {NUMBER} to {NUMBER}")  # (+0.129, 0.074 to 0.191)
WITHDRAWN = {"+0.082 (0.027 to 0.151"}
"""What a page tells of having been wrong; the file is gone."""


def triples_in(found):
    """Every value with the ends of its interval below a place of a file."""
    if isinstance(found, dict):
        found = list(found.values())
    if not isinstance(found, list):
        return
    first = found[:3]
    if len(first) == 3 and all(isinstance(one, int | float) for one in first):
        yield tuple(first)
    for one in found:
        yield from triples_in(one)


def measured(digits):
    """All of them that any file holds, and their negatives: who is compared with whom may turn."""
    known = set()
    for path in RESULTS.glob("*.json"):
        for value, low, high in triples_in(json.loads(path.read_text(encoding="utf-8"))):
            known |= {
                tuple(round(one, digits) + 0.0 for one in three)  # no -0.0
                for three in ((value, low, high), (-value, -high, -low))
            }
    return known


@pytest.mark.parametrize(
    ("page", "least"), [("README.md", 50), ("docs/findings.md", 300), ("docs/segmentation.md", 15)]
)
def test_every_value_with_an_interval_stands_in_a_file_of_results(page, least):
    text = re.sub(r"\s+", " ", (ROOT / page).read_text(encoding="utf-8"))
    told = [*BEHIND.finditer(text), *BESIDE.finditer(text)]
    assert len(told) >= least
    known = {digits: measured(digits) for digits in {len(one[1].split(".")[1]) for one in told}}
    lost = [
        one[0]
        for one in told
        if tuple(float(number) + 0.0 for number in one.groups())
        not in known[len(one[1].split(".")[1])]
    ]
    assert set(lost) <= WITHDRAWN
