"""The part of the report about masks: tables, drawings on B-scans, thickness as a map."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from oct_report import (
    Page,
    Score,
    begin_page,
    draw_overlay,
    draw_thickness,
    end_page,
    plot_scores,
    sized,
)

from oct_judge.candidates import PRETRAINED
from oct_judge.masks.candidates import Drawn
from oct_judge.masks.measuring import Ruler, cases_of
from oct_judge.masks.results import FoundMasks, boundary_table, mask_table, numbers_of, sector_table
from oct_judge.masks.study import MaskStudy
from oct_judge.page.flow import add_flow
from oct_judge.page.opening import cautions_of, few_tested
from oct_judge.page.origin import add_origin
from oct_judge.page.perturbed import add_perturbed
from oct_judge.page.subgroups import add_efficiency, add_subgroups


def write_mask_page(
    run_dir: Path, found: FoundMasks, document: Mapping[str, Any], provenance: Mapping[str, Any]
) -> Path:
    """Write report.html of an evaluation of masks."""
    name = document["question"]["name"]
    page = begin_page(
        f"Segmentation: {name}", document["sentence"], made_up=bool(document["made_up_data"])
    )
    add_cautions(page, found.study, document)
    add_masks(page, found, document)
    add_account(page, found.study, document, provenance)
    return end_page(page, run_dir, "the evaluation")


def add_cautions(page: Page, study: MaskStudy, document: Mapping[str, Any]) -> None:
    """Add what must not be missed."""
    for caution in (*cautions_of(document), *few_tested(len(study.tested))):
        page.note(caution)


def add_account(
    page: Page, study: MaskStudy, document: Mapping[str, Any], provenance: Mapping[str, Any]
) -> None:
    """Add for whom it works, where the scans went, and how to do it again."""
    add_subgroups(page, document)
    add_flow(page, document, "all boundaries" if study.boundaries else "a mask")
    add_origin(page, document, provenance)


def add_masks(page: Page, found: FoundMasks, document: Mapping[str, Any]) -> None:
    """Add the sections about masks to any page."""
    page.section(
        "Who draws how well",
        f"{document['split']}. Dice is 1 where a class is drawn exactly as it is, and 0 where not a"
        " voxel agrees; it is the mean over the scans of a participant that have the class or were"
        " said to have it, then over participants. Intervals are 95 %, by participant.",
    )
    page.table(*mask_table(document), best=[0])
    add_scores(page, document, label="Dice", chance=0.0)
    if document["question"]["boundaries"]:
        page.section(
            "Boundaries", "Mean distance in depth to the true boundary, in micrometres, by A-scan."
        )
        page.table(*boundary_table(document), best=[0])
    add_efficiency(page, document, "masks")
    add_perturbed(page, document)
    first = found.drawings[PRETRAINED][0][0]
    add_cases(page, found, first)
    if document["question"]["thickness"]:
        add_thickness(page, found, document, first)


def add_scores(page: Page, document: Mapping[str, Any], *, label: str, chance: float) -> None:
    """Add the headline of each candidate that has one, with its interval."""
    metrics = {
        one["name"]: one["card"]["metrics"][document["headline"]] for one in document["candidates"]
    }
    scores = [
        Score("", name, "", *numbers_of(values))
        for name, values in metrics.items()
        if values[0] is not None
    ]
    page.figure(plot_scores(scores, label=label, chance=chance), f"{label} with its interval.")


def add_cases(page: Page, found: FoundMasks, drawn: Drawn) -> None:
    """Add a good, a median and a bad case of the encoder, truth beside drawing."""
    study, ruler = found.study, Ruler(found.study, found.config)
    page.section(
        "Cases",
        "The B-scan with most of the classes, with the truth and with what the encoder drew, of the"
        " test scan with the best, the median and the worst Dice.",
    )
    scores = dict(zip(drawn.rows, ruler.by_row(drawn)[:, 0], strict=True))
    plain = [one for one in range(len(study.names)) if one not in study.counted]
    for case, row in cases_of(drawn, ruler):
        truth, mask = np.asarray(study.masks[row]), drawn.draw(row).astype(np.int16)
        shown = np.isin(truth, study.counted).sum(axis=(1, 2))
        bscan = int(shown.argmax()) if shown.any() else len(truth) // 2
        _, row_mm, column_mm = (float(one) for one in study.volumes.spacings[row])
        page.figure(
            draw_overlay(
                sized(study.volumes[row][bscan], row_mm=row_mm, column_mm=column_mm),
                [("true", truth[bscan]), ("drawn", mask[bscan])],
                study.names,
                plain=plain,
            ),
            f"A {case} case: Dice {scores[row]:.3f}, B-scan {bscan + 1} of {len(truth)}.",
        )


def add_thickness(page: Page, found: FoundMasks, document: Mapping[str, Any], drawn: Drawn) -> None:
    """Add thickness by ETDRS sector, and as a map of the median case."""
    study, ruler = found.study, Ruler(found.study, found.config)
    upper, lower = document["question"]["thickness"]
    page.section(
        "Thickness",
        f"Between {upper} and {lower}. The ETDRS grid stands on the middle of the scan, as no scan"
        " says where its fovea is; a sector of which the window shows only a part is the mean of"
        " that part.",
    )
    page.table(*sector_table(document))
    known = [
        row for row in drawn.rows if np.isfinite(ruler.thickness(row, drawn.draw(row)).true).any()
    ]
    if not known:
        return
    row = known[len(known) // 2]
    maps = ruler.thickness(row, drawn.draw(row))
    bscan_mm, _, column_mm = (float(one) for one in study.volumes.spacings[row])
    page.figure(
        draw_thickness(
            [("true", maps.true), ("drawn", maps.predicted)],
            depth=bscan_mm * maps.true.shape[0],
            width=column_mm * maps.true.shape[1],
        ),
        "Thickness of one test scan, seen from the front; B-scans from top to bottom.",
    )
