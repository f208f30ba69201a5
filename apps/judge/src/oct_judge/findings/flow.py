"""Where the scans went: from what was found to who was tested."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_judge.study import Study, Tested, nameless


def flow_of(study: Study) -> dict[str, Any]:
    """Scans found, refused and left out, each with why, and the participants of each part."""
    examples = study.examples
    return count_flow(
        study,
        rule=examples.split_rule,
        notes=examples.notes,
        by_class=lambda rows: by_class(study, rows),
    )


def count_flow(
    study: Tested,
    *,
    rule: str,
    notes: Sequence[str],
    by_class: Callable[[NDArray[np.int64]], Mapping[str, int]],
) -> dict[str, Any]:
    """The same of any question.

    Args:
        study: whose rows have an answer.
        rule: who is for what, in words.
        notes: why scans have none; hashes in them are taken out.
        by_class: participants among some rows who have each class.
    """
    source, answered = study.source, len(study.participants)
    refused = Counter(one.stage for one in source.volumes.quarantined)
    usable = len(source.volumes)
    parts = [
        {
            "round": one.name,
            "part": name,
            "volumes": int(part.sum()),
            "participants": len(np.unique(study.participants[part])),
            "by_class": dict(by_class(np.flatnonzero(part))),
        }
        for one in study.rounds
        for name, part in one.parts.items()
    ]
    return {
        "scans_found": source.unselected + usable + source.flagged_out + sum(refused.values()),
        "scans_unselected": source.unselected,
        "scans_refused": dict(sorted(refused.items())),
        "scans_by_flag": dict(source.flags),
        "scans_left_out_for_flags": source.flagged_out,
        "scans_usable": usable,
        "scans_without_answer": usable - answered,
        "scans_with_answer": answered,
        "participants_with_answer": len(np.unique(study.participants)),
        "notes": [*(nameless(one) for one in notes), *source.advice],
        "split_rule": rule,
        "parts": parts,
    }


def by_class(study: Study, rows: NDArray[np.int64]) -> dict[str, int]:
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
