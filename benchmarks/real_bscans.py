r"""Does pretraining pay on real B-scans? Reads finished evaluations and writes one small table.

The data are of Hughes Cano, Olivares Pinto and Thebault, on GitHub under
Traslational-Visual-Health-Laboratory/OCT-AND-EYE-FUNDUS-DATASET; clone it to MEXICO. PATIENTS is a
table with a row a patient, `participant_id` and `dme` (1 if any row of OCT.csv says so).

    DATA="data=bscans data.root=MEXICO/OCT data.mirror_left=true data.split=FOLDS
      'data.bscans.pattern="(?P<participant>\d+)_(?P<eye>O[DI])_o_(?P<number>\d+)"'"
    uv run oct-io split PATIENTS --column dme --folds 3 --out FOLDS
    for fold in 0 1 2; do for seed in 0 1; do
      uv run apps/pretrain $DATA experiment=bscans data.excluded_splits=[fold-$fold] seed=$seed \
        loop.evaluate_every=0 run_dir=runs/dme-fold-$fold-seed$seed
    done; done
    ASK="$DATA evaluation=bscans protocol.name=leave_one_out protocol.by=@split
      encoder='runs/dme-{round}-seed{seed}/encoder'"
    uv run apps/finetune $ASK seeds=2 data.labels=PATIENTS task.column=dme \
      compare.fractions=[0.1,1] run_dir=runs/dme-linear
    uv run apps/finetune $ASK seeds=2 data.labels=PATIENTS task.column=dme mode=knn \
      compare.baselines=[] run_dir=runs/dme-knn           # mode=mlp likewise
    uv run apps/finetune $ASK seeds=1 data.labels=PATIENTS task.column=dme mode=full \
      training.epochs=12 compare.baselines=[] run_dir=runs/dme-full    # likewise the other modes
    uv run apps/finetune $ASK seeds=2 data.labels=IMAGES task.column=dr run_dir=runs/dr-linear
    uv run apps/finetune $ASK seeds=1 data.labels=PATIENTS task.column=dme mode=partial \
      training.head_start=probe training.lr_head=1e-4 training.epochs=12 training.patience=4 \
      compare.random_init=false compare.baselines=[] run_dir=runs/dme-partial-probe
    uv run python benchmarks/real_bscans.py --into real_bscans_flattened \
      runs/dme-linear runs/dme-knn ...

results/real_bscans_five.json has five folds, loop.steps=900 and the linear probe for dme alone.
So was results/real_bscans_longer.json made (its tenth of the labels by seed 0), and with
loop.steps=900 results/real_bscans_flattened.json. results/real_macular_hole.json asks the encoder
of fold-1 with protocol.name=kfold about singla-nitin/macular_hole, `large` being mh_size above 400,
and one of 900 steps. results/real_bscans.json is older, of scans as they
are: data.flatten=false data.window=96x256 for both apps, encoder.input_shape=[1,96,256] for the
first, readout.pools=[mean,mean_std,max] for the second, and 6 epochs.

results/real_bscans_from_probe.json has the linear probe at all readouts and at the one that a fresh
head reads (readout.blocks=[last] readout.pools=[mean_std]), both with seeds=1, and then `partial`
from the probe; `chosen` says where each round began (steps 0: it stayed there). Its encoders are
those of real_bscans_flattened.json, of seed 0.

results/real_bscans_units.json asks the encoders of benchmarks/real_patches.py of the two fifths of
the patients whom they have not seen, a split of one round (`data.split`: fold-0 and fold-1 are
tested, fold-2 chooses), compare.turns=5: units of seeds 1 and 2 for dme, the same for dr, and
voxels alone of seeds 1 and 2 for dme. results/real_bscans_5000.json asks those of seeds 1 and 2
with units and loop.steps=5000 the same way, compare.fractions=[0.1,1] compare.turns=5, and besides
compare.baselines=[...,"random layer + grey histogram","filter bank + grey histogram", "random init
+ random layer","random init + filter bank"]; shares of the labels are of seed 1 alone there, as in
all files but results/real_bscans_few.json: 20 draws of each with both seeds, then the same (seed 1)
of fold-2 and fold-3, with fold-4 to choose, by an encoder pretrained without them, and then by one
of objective=mae_smoke masking=mae loop.steps=10500. results/real_bscans_kermany.json asks the first
two encoders about the column `class` of images of Kermany et al. 2018, a folder and a table with
participant_id, filepath and class, five folds by `oct-io split` of which two are tested and one
chooses, compare.turns=5; one id is one of the other set too, so that allow_seen=true.
results/real_bscans_filters.json asks units of seed 1 so, beside the filter bank. All of these were
made when all of validation chose (compare.few_validation=false).

results/real_bscans_five_filters.json: five folds, three seeds of experiment=bscans with
loop.steps=900, dme and dr with mode=linear, knn and mlp, dr with partial (from the probe,
training.epochs=4 training.patience=2) and attentive (training.grid.kinds=[cross_attention]
training.grid.blocks=[last,all] training.grid.learning_rates=[1e-3,3e-3] training.epochs=20
training.patience=5 training.batch_size=32). results/real_bscans_five_trained.json: their encoders
of seed 0, made anew, and three seeds of fitting (encoder='runs/dme-{round}-seed0/encoder'
seeds=3): dr with mode=full and lora from the probe in the same way, dme likewise with
training.epochs=2, which are as many steps, and both with mode=knn beside
compare.baselines=[grey histogram,thumbnail,axial profile]. results/real_bscans_five_networks.json:
the same encoders, dme with partial likewise, and with attentive as dr with training.epochs=10, and
both with mode=linear beside compare.networks=[timm_resnet18] compare.random_init=false
training.patience=3 training.warmup_epochs=1, training.epochs=8 for dr and 4 for dme; then both with
mode=mlp readout.pools=[mean_std] compare.random_init=false beside the same baselines as knn.

results/real_bscans_filters_steps.json: experiment=bscans with loop.steps=10000, seed 1, asked of
fold-0 and fold-1 beside those of 5,000, 2,500 and 1,250 steps (compare.encoders), 20 draws.

results/real_bscans_filters_ranks.json: two seeds of experiment=bscans asked of fold-0 and fold-1
about dr and dme, with compare.together, compare.ranked and compare.turns=5.

results/real_bscans_choosers.json: units and MAE of seed 1, trained anew as for
real_bscans_few.json, each asked beside the other (compare.encoders) of fold-0 and fold-1, and of
fold-2 and fold-3, with compare.few_validation=true, and the first again without.
results/real_bscans_unflattened.json: MAE of 10,500 steps, seeds 1 and 2, of scans as they are,
without fold-0 and fold-1 (data.flatten=false data.window=96x256 for both apps,
encoder.input_shape=[1,96,256]).
results/real_bscans_filter_targets.json: objective=vjepa21_filters_smoke masking=mae
loop.steps=5000, seed 1, flattened, without fold-0 and fold-1 and asked of them beside the units and
MAE of real_bscans_choosers.json, then of scans as they are, likewise, beside MAE of
real_bscans_unflattened.json, then flattened of fold-2 and fold-3.
results/real_bscans_filters_two_seeds.json: the first and the last again with encoders of seeds 1
and 2, beside MAE of seed 1; then the first with random weights beside the bank read out as the
encoder chose to be, as in every file before this one. In all files a third of the participants who
validate calibrate, and choose nothing: of 166 here 111 choose.

IMAGES has participant_id, filepath and dr of each image; OCT.csv says "-" of 600 of them, which
have no answer. Pretraining sees no participant of the fold that is tested, and no label.

Here `experiment=bscans` stands for what it was until results/real_bscans_filter_targets.json:
objective=vjepa21_voxels_smoke masking=multiblock loop.steps=2700 loop.evaluate_every=300, and what
is given beside it goes before that.
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
        # Whether who chooses had few labels, too; older results do not say: all of validation did.
        "few_validation": found.get("few_validation", False),
        "by_share_of_labels": [
            {
                "candidate": one["candidate"],
                "share": one["fraction"],
                found["headline"]: [round(value, 3) for value in one["headline"]],
                "encoder_over_it": one["gain"]
                and [round(value, 3) for value in one["gain"]["difference"]],
                "p_holm": one["gain"] and round(one["gain"]["p_holm"], 3),
            }
            for one in found["efficiency"]
        ],
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
        "chosen": [
            {name: round(one, 3) if isinstance(one, float) else one for name, one in each.items()}
            for each in candidate["chosen"]
        ],
    }


if __name__ == "__main__":
    write_evaluations("real_bscans", __doc__, summary, phantom=False)
