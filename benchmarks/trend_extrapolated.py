"""Where do the trends of results/real_trend.json lead? Steps, width and patients by lines.

    python benchmarks/trend_extrapolated.py

For each of three things that were changed, oedema and any retinopathy, all and a tenth of the
labels: a line by least squares through what pretraining has over random weights of the same width,
against the logarithm to base 2. Told are the gain of a doubling, how far the points lie from the
line, the gain of the largest, how many doublings more would bring +0.06, and what is left above
random weights up to an AUROC of 1. One seed and one fold a point, so a slope below the scatter says
nothing; the line of 8,100 steps (results/real_bscans_8100.json) was asked with one readout more.
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


def line_through(places: list[float], gains: list[float]) -> dict[str, Any]:
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
            rows.append(
                {
                    "changed": axis,
                    "question": key[0],
                    "labels": key[1],
                    "at": list(arms.values()),
                    "over_random_init": gains,
                    **line_through(list(arms.values()), gains),
                    "left_above_random_init": round(1 - (auroc - gain), 3),
                }
            )
            print(json.dumps(rows[-1]))
    facts = {"phantom": False, "target": TARGET, "rows": rows}
    write_results("trend_extrapolated", ("numpy",), facts)


if __name__ == "__main__":
    main()
