"""What is worth hiding? Masks of blocks against masks of single patches, on phantoms of their own.

    DATA="data=phantom data.phantom.seed=$P data.root=runs/masks-$P"
    PATCH="encoder.patch_size=[2,8,16]"  # as the default had it
    arm() { name=$1; s=$2; shift 2
      uv run apps/pretrain $DATA $PATCH seed=$s loop.evaluate_every=0 probe.columns=[] \
        run_dir=runs/masks-$P/$name-seed$s "$@"; }
    arm blocks $s objective=vjepa21_voxels_smoke masking=multiblock loop.steps=600
    arm patches $s objective=vjepa21_voxels_smoke masking=mae loop.steps=870
    arm heavy $s objective=vjepa21_voxels_smoke masking=mae objective.voxel_weight=4 loop.steps=870
    arm one $s objective=vjepa2_voxels_smoke masking=mae loop.steps=900
    arm mae $s objective=mae_smoke masking=mae loop.steps=1500
    arm maeblocks $s objective=mae_smoke masking=multiblock loop.steps=750
    uv run apps/finetune $DATA task.columns=[thin,fluid,drusen,folded] seeds=2 compare.maps=0 \
      compare.shortcuts=[] compare.together=false compare.ranked=false run_dir=runs/masks-$P/ask \
      'encoder="runs/masks-$P/one-seed{seed}/encoder"' \
      'compare.encoders=["mae=runs/masks-$P/mae-seed{seed}/encoder",...]'
    uv run python benchmarks/phantom_masks.py runs/masks-1/ask runs/masks-2/ask

All of them for some 75 seconds of one core, two seeds; `pretrained` is `one`. On P=1 all six were
looked at, on P=2, which nobody had looked at, `one`, `blocks` (called voxels there) and `mae`:
`one` was made the default after that. Both were asked again when `tails` came to the readouts.
Phantom, all of it.
"""

from evaluations import write_evaluations
from real_bscans import summary

if __name__ == "__main__":
    write_evaluations("phantom_masks", __doc__, summary, phantom=True)
