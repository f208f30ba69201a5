"""The report of `mode=patches`: the table, and scans under what the encoder says of each patch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from oct_report import Page, begin_page, draw_patches, end_page, sized
from oct_vjepa.measures.ranking import area, count_cells

from oct_judge.masks.page import add_account, add_cautions, add_scores
from oct_judge.masks.patches import Patches
from oct_judge.masks.witnesses import Said
from oct_judge.page.subgroups import add_efficiency

Table = tuple[list[str], list[list[str]]]
Seen = Mapping[int, tuple[Said, int]]
"""Row of a tested scan to what the encoder said, and the number of the scan there."""


def write_where_page(
    run_dir: Path,
    patches: Patches,
    seen: Seen,
    document: Mapping[str, Any],
    table: Table,
    provenance: Mapping[str, Any],
) -> Path:
    """Write report.html."""
    question = document["question"]
    page = begin_page(
        f"Where it is: {question['name']}",
        document["sentence"],
        made_up=bool(document["made_up_data"]),
    )
    add_cautions(page, patches.study, document)
    _, rows, columns = patches.study.volumes.shape
    page.section(
        "Who knows where",
        f"{document['split']}. Each of {' x '.join(map(str, patches.grid))} patches of a window of"
        f" {rows} x {columns} is asked whether {question['least']:.0%} of it or more are of a class"
        f" ({held(question)}): by a logistic regression on frozen tokens of blocks"
        f" {', '.join(map(str, document['blocks']))},{means_of(document['around'])} with the row of"
        " the grid; all candidates are read alike. AUROC is 1 where every patch that holds a class"
        " comes before all that do not, 0.5 where they come as they like. A participant counts as"
        " all of their patches. Intervals are 95 %, by participant. The model that is left,"
        " RUN/model, does the same with new scans: predict=FOLDER model=RUN/model.",
    )
    page.table(*table, best=[0])
    add_scores(page, document, label="AUROC", chance=0.5)
    add_efficiency(page, document, "masks")
    add_scans(page, patches, seen)
    add_account(page, patches.study, document, provenance)
    return end_page(page, run_dir, "the evaluation")


def means_of(around: Sequence[int]) -> str:
    """Over which squares tokens are averaged, in words."""
    squares = " and ".join(f"{side} x {side}" for side in around)
    return f" their means over {squares} patches," if around else ""


def held(question: Mapping[str, Any]) -> str:
    """How many of the tested patches hold what, in words."""
    said = ", ".join(f"{name} {count}" for name, count in question["held"].items())
    return f"of {question['tested']} that are tested: {said}"


def add_scans(page: Page, patches: Patches, seen: Seen) -> None:
    """Add the scan with the best, the median and the worst order of patches."""
    cases = cases_of(patches, seen)
    if not cases:
        return
    page.section(
        "Where the encoder sees it",
        "The tested scans in which the encoder orders the patches best, in the middle and worst; of"
        " each the B-scan with most of the class. Brighter is more likely; the scale is the same in"
        " all pictures of a class, and ends at the likeliest patch of them.",
    )
    tops: dict[int, float] = {}
    for _, row, number, _ in cases:
        chances = chances_of(seen[row], number)
        tops[number] = max(tops.get(number, 0.0), float(chances.max()))
    for case, row, number, score in cases:
        study, name = patches.study, patches.names[number]
        truth = np.asarray(study.masks[row]) == patches.classes[number]
        bscan = int(truth.sum(axis=(1, 2)).argmax())
        deep = bscan * patches.grid[0] // len(truth)
        chances = chances_of(seen[row], number).reshape(patches.grid)[deep]
        _, row_mm, column_mm = (float(one) for one in study.volumes.spacings[row])
        page.figure(
            draw_patches(
                sized(study.volumes[row][bscan], row_mm=row_mm, column_mm=column_mm),
                truth[bscan],
                chances,
                name=name,
                top=tops[number],
            ),
            f"A {case} case of {name}: AUROC {score:.3f} in this scan, B-scan {bscan + 1} of"
            f" {len(truth)}.",
        )


def chances_of(said: tuple[Said, int], number: int) -> NDArray[np.float64]:
    """Chance of each patch of a scan to hold a class."""
    return np.asarray(1 / (1 + np.exp(-said[0].scores[number, said[1]])))


def cases_of(patches: Patches, seen: Seen) -> list[tuple[str, int, int, float]]:
    """A good, a median and a bad case: its name, row, class and AUROC.

    The class of a scan is the one that most of its patches hold.
    """
    found = []
    for row, (said, place) in seen.items():
        known = patches.known[row]
        number = int((patches.present[:, row] & known).sum(axis=1).argmax())
        there = patches.present[number, row][known]
        if there.all() or not there.any():
            continue
        cells = count_cells(there, said.scores[number, place][known], np.ones((1, len(there))))
        found.append((float(area(cells)[0]), row, number))
    if not found:
        return []
    order = sorted(found)
    chosen: dict[tuple[float, int, int], str] = {}
    for name, at in {"good": -1, "median": len(order) // 2, "bad": 0}.items():
        chosen.setdefault(order[at], name)
    return [(name, row, number, score) for (score, row, number), name in chosen.items()]
