r"""Does pretraining pay on real 3-D volumes? Reads finished evaluations and writes one small table.

The data are AdrenalMNIST3D of MedMNIST v2 (Yang et al., Scientific Data 2023, CC BY 4.0): shapes of
1,584 adrenal glands, 0 or 255 in 64 x 64 x 64 voxels, normal or not, of which the published split,
which keeps a patient's two glands together, tests 298. The archive is on Zenodo (record 10519652)
and on GitHub in yohann1146/cg-marching-cubes.

    uv run python benchmarks/unpack_medmnist.py adrenalmnist3d_64.npz ADRENAL
    DATA="data=folder data.kind=volume data.root=ADRENAL data.window=28x28x28 data.name=adrenal"
    uv run apps/pretrain $DATA data.excluded_splits=[test,val] augment=light \
      encoder.input_shape=[28,28,28] encoder.patch_size=[4,7,7] objective=vjepa21_voxels_smoke \
      masking=multiblock \
      loop.steps=900 loop.evaluate_every=0 run_dir=runs/adrenal
    ASK="$DATA task.column=label seeds=3 encoder=runs/adrenal/encoder"
    uv run apps/finetune $ASK compare.maps=0 run_dir=runs/adrenal-linear ...
    TRAIN="compare.baselines=[] training.epochs=10 training.patience=0 training.layer_decay=1
      training.lr_encoder=1e-3"
    uv run apps/finetune $ASK $TRAIN mode=full run_dir=runs/adrenal-full
    uv run apps/finetune $ASK $TRAIN compare.networks=[monai_resnet10] compare.random_init=false \
      compare.ranked=false compare.maps=0 run_dir=runs/adrenal-network
    uv run python benchmarks/real_volumes.py runs/adrenal-linear runs/adrenal-full ...

Pretraining sees the training part alone, and no label; so does a second one with
objective=vjepa21_filters_smoke, which the first evaluation has as
compare.encoders=['filters=runs/adrenal-filters/encoder']. The settings were fixed before any of it
was run; choices are made on the 98 shapes of the validation part. The first takes 436 CPU seconds.
"""

from collections.abc import Mapping
from typing import Any

from evaluations import write_evaluations
from real_bscans import summary


def volumes_summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """As for B-scans, and by how many settings the test had been scored before."""
    return summary(found) | {"test_touches": found["test_touches"]}


if __name__ == "__main__":
    write_evaluations("real_volumes", __doc__, volumes_summary, phantom=False)
