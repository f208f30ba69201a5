"""What an evaluation leaves behind: results.json, predictions.csv, the head, and a page."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from oct_io import LabelledVolumes
from oct_report import REFERENCE, add_probe_scores, add_probe_table, begin_page, end_page
from oct_vjepa.heads.linear import LinearHead
from oct_vjepa.probes.comparison import ProbeRow, as_json


def write_results(
    run_dir: Path, rows: Sequence[ProbeRow], examples: LabelledVolumes, *, made_up: bool
) -> None:
    """Write everything for one task; the first row is the encoder that was asked.

    Participants appear as hashes.
    """
    document = {
        "made_up_data": made_up,
        "classes": examples.classes,
        "split": examples.describe(),
        "reference": "random init",
        "results": [as_json(row) for row in rows],
    }
    (run_dir / "results.json").write_text(json.dumps(document, indent=2) + "\n")
    _write_predictions(run_dir / "predictions.csv", rows[0], examples)
    head = LinearHead.from_regression(rows[0].result.regression, examples.classes, rows[0].pool)
    head.save_pretrained(run_dir / "head")
    _write_page(run_dir, rows, examples, made_up)


def _write_predictions(path: Path, row: ProbeRow, examples: LabelledVolumes) -> None:
    """One line a test participant: hash, class, and the probability of each class."""
    units = row.result.units
    names = np.unique(examples.participants[examples.held_out])
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["participant", "label", *(f"p_{one}" for one in examples.classes)])
        for scores, label, group in zip(*units, strict=True):
            chances = [f"{chance:.6f}" for chance in scores]
            writer.writerow([names[group], examples.classes[label], *chances])


def _write_page(
    run_dir: Path, rows: Sequence[ProbeRow], examples: LabelledVolumes, made_up: bool
) -> None:
    asked = rows[0].result
    page = begin_page(
        f"{rows[0].column}: what the frozen encoder knows",
        f"Linear probe, {rows[0].pool} pool; {examples.describe()}.",
        made_up=made_up,
    )
    page.tiles(
        {
            "AUROC": f"{asked.auroc:.3f}",
            "95 % interval": f"{asked.auroc_low:.3f} to {asked.auroc_high:.3f}",
            "balanced accuracy": f"{asked.balanced_accuracy:.3f}",
            "test participants": str(asked.participants_test),
        }
    )
    page.section(
        "Beside random init and the axial profile",
        "Scores are averaged over the scans of a participant; intervals are bootstrapped over "
        "participants. The axial profile is the mean A-scan: what one gets without any encoder.",
    )
    add_probe_scores(page, rows, "AUROC with 95 % intervals.")
    add_probe_table(page, rows, best=[0])
    page.text(REFERENCE)
    end_page(page, run_dir, "the evaluation")
