r"""Does the judge see through a shortcut? A label that goes along with the scanner. Phantom.

    uv run apps/pretrain data.name=confounded data.root=runs/data/confounded $TREE \
      run_dir=runs/confounded
    for by in given leave_one_out; do
      uv run apps/finetune data.name=confounded data.root=runs/data/confounded $TREE task=fluid \
        encoder=runs/confounded/encoder protocol.name=$by allow_seen=true \
        run_dir=runs/confounded-$by
    done
    uv run python benchmarks/confounded_phantom.py runs/confounded-*

with TREE="data.phantom.device_confounding=0.9 data.phantom.confounded=fluid
data.phantom.effect=0.5". Nine of ten participants are scanned by the device that their label stands
for; pretraining has seen all of them, without labels. What gives it away: the device is told from
the features, the label from the device alone, the score falls when a device is left out, and it may
fall on grey ranks.
"""

from collections.abc import Mapping
from typing import Any

from evaluations import write_evaluations

SHOWN = ("pretrained", "random init", "grey histogram", "axial profile", "pretrained, grey ranks")


def signs_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """Scores by candidate, and what the shortcut probes found."""
    metric = found["headline"]
    return {
        "protocol": found["protocol"]["name"],
        metric: {
            one["name"]: [round(value, 3) for value in one["card"]["metrics"][metric]]
            for one in found["candidates"]
            if one["name"] in SHOWN
        },
        "shortcuts": found["shortcuts"],
    }


if __name__ == "__main__":
    write_evaluations("confounded_phantom", __doc__, signs_of, phantom=True)
