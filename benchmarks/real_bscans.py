r"""Does pretraining pay on real B-scans? Reads finished evaluations and writes one small table.

The data are of Hughes Cano, Olivares Pinto and Thebault, on GitHub under
Traslational-Visual-Health-Laboratory/OCT-AND-EYE-FUNDUS-DATASET; clone it to MEXICO. PATIENTS is a
table with a row a patient, `participant_id` and `dme` (1 if any row of OCT.csv says so).

    DATA="data=bscans data.root=MEXICO/OCT data.mirror_left=true data.split=FOLDS
      'data.bscans.pattern="(?P<participant>\d+)_(?P<eye>O[DI])_o_(?P<number>\d+)"'"
    uv run oct-io split PATIENTS --column dme --folds 3 --out FOLDS
    uv run apps/pretrain $DATA experiment=bscans data.excluded_splits=[fold-0] augment=light \
      objective=vjepa21_voxels_smoke loop.evaluate_every=0 run_dir=runs/dme-fold0
    uv run apps/finetune $DATA data.labels=PATIENTS task.column=dme test_split=fold-0 \
      encoder=runs/dme-fold0/encoder run_dir=runs/dme-fold0-linear
    uv run python benchmarks/real_bscans.py runs/dme-fold0-linear runs/dme-fold0-knn ...

Pretraining sees no participant of the test fold, and no label.
"""

from collections.abc import Mapping
from typing import Any

from evaluations import write_evaluations


def summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of one evaluation, rounded; nothing that names a file or a person."""
    return {
        "question": found["question"]["name"],
        "mode": found["mode"],
        "split": found["split"],
        "seeds": found["seeds"],
        "rows": [row_of(one, found["headline"]) for one in found["candidates"]],
        "promise": found["promise"],
    }


def row_of(candidate: Mapping[str, Any], headline: str) -> dict[str, Any]:
    """One candidate: headline, and what the encoder has over it, each with its interval."""
    metrics, gain = candidate["card"]["metrics"], candidate["gain"]
    return {
        "candidate": candidate["name"],
        headline: [round(one, 3) for one in metrics[headline]],
        "balanced_accuracy": [round(one, 3) for one in metrics["balanced_accuracy"]],
        "ece": round(metrics["ece"][0], 3),
        "encoder_over_it": gain and [round(one, 3) for one in gain["difference"]],
        "p_holm": gain and round(gain["p_holm"], 3),
    }


if __name__ == "__main__":
    write_evaluations("real_bscans", __doc__, summary, phantom=False)
