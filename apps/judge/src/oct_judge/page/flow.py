"""Where the scans went: who was left out, and why."""

from collections.abc import Mapping
from typing import Any

from oct_report import Page


def add_flow(page: Page, document: Mapping[str, Any], wanted: str) -> None:
    """Scans from found to tested, then the participants of each part.

    Args:
        page: to add to.
        document: results.json.
        wanted: what a scan must have to take part, in words.
    """
    flow = document.get("flow")
    if not flow:
        return
    page.section("Where the scans went")
    page.table(["step", "scans", "why"], _steps(flow, wanted))
    for note in flow["notes"]:
        page.text(f"{note[:1].upper()}{note[1:]}.")
    page.heading("Who is for what")
    page.text(f"Apart by participant; split: {flow['split_rule']}.")
    classes = list(dict.fromkeys(name for one in flow["parts"] for name in one["by_class"]))
    rows = [
        [
            one["round"],
            one["part"],
            str(one["volumes"]),
            str(one["participants"]),
            *(str(one["by_class"].get(name, 0)) for name in classes),
        ]
        for one in flow["parts"]
    ]
    page.table(["round", "part", "volumes", "participants", *classes], rows)


def _steps(flow: Mapping[str, Any], wanted: str) -> list[list[str]]:
    refused = flow["scans_refused"]
    stages = ", ".join(f"{count} at {stage}" for stage, count in refused.items())
    flags = ", ".join(f"{count} {flag}" for flag, count in flow["scans_by_flag"].items())
    return [
        ["listed", str(flow["scans_found"]), ""],
        [
            "not asked for",
            str(flow["scans_unselected"]),
            "data.devices, regions, lateralities",
        ],
        ["refused as unreadable", str(sum(refused.values())), stages],
        [
            "left out for a flag",
            str(flow["scans_left_out_for_flags"]),
            f"flags seen: {flags}" if flags else "no flags seen",
        ],
        ["usable", str(flow["scans_usable"]), ""],
        [f"without {wanted}", str(flow["scans_without_answer"]), ""],
        [
            f"with {wanted}",
            str(flow["scans_with_answer"]),
            f"of {flow['participants_with_answer']} participants",
        ],
    ]
