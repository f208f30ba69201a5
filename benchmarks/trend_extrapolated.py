"""Where do the trends of results/real_trend.json lead? Steps, width and patients by lines.

    python benchmarks/trend_extrapolated.py

For each of three things that were changed, oedema and any retinopathy, all and a tenth of the
labels: a line by least squares through what pretraining has over random weights of the same width,
against the logarithm to base 2. Told are the gain of a doubling, how far the points lie from the
line, the gain of the largest, how many doublings more would bring +0.06, and what is left above
random weights up to an AUROC of 1. One seed and one fold a point, so a slope below the scatter says
nothing; the line of 8,100 steps (results/real_bscans_8100.json) was asked with one readout more.
"Steps for filters" are those of `experiment=bscans` (results/real_bscans_filters_steps.json): one
seed, two fifths of the patients, 20 draws of few labels.
"""

import json
import math
from typing import Any

import numpy as np
from writing import RESULTS, write_results

TARGET = 0.06
AXES = {
    "steps": {"steps-300": 300, "steps-900": 900, "steps-2700": 2700, "8,100 steps": 8100},
    "width": {"width-96": 96, "steps-900": 192, "width-384": 384},
    "patients": {"share-25": 139, "share-50": 277, "steps-900": 554},
}
"""By what was changed: arms, and their place on the axis."""
FILTERS = {
    "encoder 1,250 steps": 1250,
    "encoder 2,500 steps": 2500,
    "encoder 5,000 steps": 5000,
    "pretrained": 10000,
}
SHARES = {0.05: "a twentieth", 0.1: "a tenth", 0.25: "a quarter", 1.0: "all"}


def readings() -> dict[str, dict[tuple[str, str], tuple[float, float]]]:
    """By arm, question and share of the labels: AUROC, and what it has over random weights."""
    found: dict[str, dict[tuple[str, str], tuple[float, float]]] = {}
    for arm in json.loads((RESULTS / "real_trend.json").read_text())["arms"]:
        found[arm["arm"]] = {}
        for question in ("dme", "dr"):
            for share, one in (
                ("all", arm[question]),
                ("a tenth", arm[question]["a_tenth_of_the_labels"]),
            ):
                found[arm["arm"]][question, share] = one["auroc"][0], one["over_random_init"][0]
    longest = found["8,100 steps"] = {}
    for run in json.loads((RESULTS / "real_bscans_8100.json").read_text())["runs"]:
        by = {(one["candidate"], one["share"]): one for one in run["by_share_of_labels"]}
        for share, number in (("all", 1.0), ("a tenth", 0.1)):
            own, random = by["pretrained", number], by["random init", number]
            longest[run["question"], share] = own["auroc"][0], random["encoder_over_it"][0]
    return found


def filter_rows() -> list[dict[str, Any]]:
    """Lines through steps of the recipe of B-scans, by share of the labels."""
    text = (RESULTS / "real_bscans_filters_steps.json").read_text()
    (run,) = json.loads(text)["runs"]
    auroc = {(one["candidate"], one["share"]): one["auroc"][0] for one in run["by_share_of_labels"]}
    return [
        row(
            "steps for filters",
            (run["question"], name),
            list(FILTERS.values()),
            [round(auroc[arm, share] - auroc["random init", share], 3) for arm in FILTERS],
            auroc["random init", share],
        )
        for share, name in SHARES.items()
    ]


def row(
    axis: str, key: tuple[str, str], at: list[int], gains: list[float], random: float
) -> dict[str, Any]:
    """What was changed, asked and found; `random` is the AUROC of random weights."""
    return {
        "changed": axis,
        "question": key[0],
        "labels": key[1],
        "at": at,
        "over_random_init": gains,
        **line_through(at, gains),
        "left_above_random_init": round(1 - random, 3),
    }


def line_through(places: list[int], gains: list[float]) -> dict[str, Any]:
    """Gain of a doubling, scatter around the line, and how many doublings more reach the target."""
    at = np.log2(places)
    slope, start = np.polyfit(at, gains, 1)
    residual = np.asarray(gains) - (slope * at + start)
    scatter = math.sqrt(float((residual**2).sum()) / (len(gains) - 2))
    end = float(slope * at[-1] + start)
    more = (TARGET - end) / slope if slope > 0 else None
    return {
        "a_doubling": round(float(slope), 3),
        "standard_error": round(scatter / float(np.sqrt(((at - at.mean()) ** 2).sum())), 3),
        "line_at_the_largest": round(end, 3),
        "doublings_more_to_the_target": None if more is None else round(max(more, 0.0), 1),
    }


def main() -> None:
    """Read, fit, print and write down."""
    found, rows = readings(), []
    for axis, arms in AXES.items():
        for key in found["steps-900"]:
            gains = [found[arm][key][1] for arm in arms]
            auroc, gain = found[list(arms)[-1]][key]
            rows.append(row(axis, key, list(arms.values()), gains, auroc - gain))
    rows += filter_rows()
    print("\n".join(json.dumps(one) for one in rows))
    facts = {"phantom": False, "target": TARGET, "rows": rows}
    write_results("trend_extrapolated", ("numpy",), facts)


if __name__ == "__main__":
    main()
