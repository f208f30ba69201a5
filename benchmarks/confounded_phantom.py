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

import argparse
import json
from pathlib import Path
from typing import Any

OUT = Path("benchmarks/results/confounded_phantom.json")
SHOWN = ("pretrained", "random init", "grey histogram", "axial profile", "pretrained, grey ranks")


def main() -> None:
    """Put the signs of a shortcut side by side."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished evaluations")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    document = {
        "command": "see benchmarks/confounded_phantom.py",
        "phantom": True,
        "runs": [signs_of(folder) for folder in options.runs],
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document["runs"], indent=1))


def signs_of(folder: Path) -> dict[str, Any]:
    """Scores by candidate, and what the shortcut probes found."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
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
    main()
