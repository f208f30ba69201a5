"""Where the scans went: from what was found to who was tested."""

from collections import Counter
from typing import Any

import numpy as np

from oct_judge.study import Study, nameless


def flow_of(study: Study) -> dict[str, Any]:
    """Scans found, refused and left out, each with why, and the participants of each part."""
    source, examples = study.source, study.examples
    refused = Counter(one.stage for one in source.volumes.quarantined)
    usable = len(source.volumes)
    return {
        "scans_found": source.unselected + usable + source.flagged_out + sum(refused.values()),
        "scans_unselected": source.unselected,
        "scans_refused": dict(sorted(refused.items())),
        "scans_by_flag": dict(source.flags),
        "scans_left_out_for_flags": source.flagged_out,
        "scans_usable": usable,
        "scans_without_answer": usable - len(examples.volumes),
        "scans_with_answer": len(examples.volumes),
        "participants_with_answer": len(np.unique(study.panel.people)),
        "notes": [nameless(one) for one in examples.notes],
        "split_rule": examples.split_rule,
        "parts": [part for number in range(len(study.rounds)) for part in parts_of(study, number)],
    }


def parts_of(study: Study, number: int) -> list[dict[str, Any]]:
    """Volumes and participants of the parts of a round, and participants of each class."""
    one = study.rounds[number]
    found = []
    for name, part in one.parts.items():
        rows = np.flatnonzero(part)
        people = study.panel.people[rows]
        found.append(
            {
                "round": one.name,
                "part": name,
                "volumes": len(rows),
                "participants": len(np.unique(people)),
                "by_class": by_class(study, rows),
            }
        )
    return found


def by_class(study: Study, rows: Any) -> dict[str, int]:
    """Participants of each class, with each label, or with an event."""
    target = study.target.take(rows)
    people = study.panel.people[rows]
    if target.kind == "regression":
        return {}
    if target.kind == "survival":
        return {"event": len(np.unique(people[target.values[:, 1] == 1]))}
    has = target.values == 1
    if target.is_classes:
        has = target.values[:, None] == np.arange(len(target.names))
    return {
        name: len(np.unique(people[has[:, column]])) for column, name in enumerate(target.names)
    }
