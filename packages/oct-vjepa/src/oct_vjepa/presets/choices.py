"""Encoders, masks and objectives by name: what `encoder=base` means, each number with its source.

`ENCODERS["base"].config()` gives the configuration; the apps offer the same names on their command
line. A file of configs/ or of a folder of yours may begin with one of them and change some values.
"""

from dataclasses import replace

from oct_vjepa.masking.configuration import MaskingConfig, predecessor_masking
from oct_vjepa.objectives.configuration import (
    DenseJepaConfig,
    JepaConfig,
    ObjectiveConfig,
    TwoViewConfig,
    ViewConfig,
)
from oct_vjepa.objectives.rivals.configuration import (
    DinoConfig,
    LeJepaConfig,
    MaeConfig,
    SaltConfig,
)
from oct_vjepa.presets.named import NamedEncoder, NamedMasking, NamedObjective
from oct_vjepa.presets.sources import (
    DENSE,
    IJEPA,
    OURS,
    PATCHES,
    PHANTOMS,
    PRETRAIN,
    SEED_CONFIG,
    SEED_DATA,
    VIT,
    VOLUME,
    Given,
    Settings,
    given_by,
    stated,
)


def _vit(name: str, title: str) -> NamedEncoder:
    return NamedEncoder(
        name=name,
        about=f"V-JEPA 2's ViT-{title}: 64 x 384 x 384 voxels in 4 x 16 x 16 patches.",
        size=Given(name, VIT),
        settings=given_by(VOLUME, input_shape=(64, 384, 384), patch_size=(4, 16, 16)),
    )


_ENCODERS = (
    NamedEncoder(
        name="cpu_smoke",
        about="Half a million parameters for 8 x 64 x 64 voxels; trains in minutes on two CPU "
        "cores.",
        size=Given("cpu_smoke", OURS),
        settings={
            "input_shape": Given((8, 64, 64), OURS),
            "patch_size": Given(
                (2, 8, 8), "ours: bumps of a few voxels are seen; 2 slices as in V-JEPA 2"
            ),
        },
    ),
    NamedEncoder(
        name="bscan_tiny",
        about="2-D: one slice of 96 x 256 voxels in 12 x 16 patches, 2.7 million parameters; "
        "trains on a CPU.",
        size=Given("bscan_tiny", OURS),
        settings=given_by(OURS, input_shape=(1, 96, 256), patch_size=(1, 8, 16)),
    ),
    _vit("tiny", "Tiny"),
    _vit("small", "Small"),
    _vit("base", "Base"),
    _vit("large", "Large"),
    _vit("huge", "Huge"),
    _vit("giant", "Giant"),
)
ENCODERS = {one.name: one for one in _ENCODERS}

FIXED = f"{PRETRAIN}: mask; fixed sizes at which 96 % of the targets lie in the blocks"
BLOCK_SETS: tuple[Settings, ...] = tuple(
    stated(one, blocks=PRETRAIN, scale=PRETRAIN, target_fraction=FIXED, context_fraction=FIXED)
    for one in MaskingConfig().sets
)
BOUND = Given(2048, "ours: at 9,216 tokens the whole predictor costs more than both encoders")
TISSUE = Given("foreground", "ours: targets where something is, and some of it left to see")
MAE_RATIO = "He et al. 2021, main_pretrain.py of facebookresearch/mae: mask_ratio"


def _all_with(name: str, given: Given) -> tuple[Settings, ...]:
    return tuple({**one, name: given} for one in BLOCK_SETS)


_MASKINGS = (
    NamedMasking(
        name="multiblock",
        about="V-JEPA 2's two masks, tubes of a fixed size: many small blocks, and two large ones.",
        sets=BLOCK_SETS,
    ),
    NamedMasking(
        name="multiblock_bounded",
        about="As multiblock, with at most 2,048 targets a volume, a random part; for thousands of "
        "patches.",
        sets=_all_with("max_targets", BOUND),
    ),
    NamedMasking(
        name="foreground",
        about="As multiblock, with targets where there is tissue and some tissue left to see.",
        sets=_all_with("kind", TISSUE),
    ),
    NamedMasking(
        name="mae",
        about="75 % of the patches, each drawn by itself, as MAE has it.",
        sets=(given_by(MAE_RATIO, kind="patches", target_fraction=0.75, context_fraction=0.25),),
    ),
    NamedMasking(
        name="predecessor",
        about="60 % of the patches, each drawn by itself, as the predecessor had it.",
        sets=(
            stated(
                predecessor_masking().sets[0],
                kind=SEED_DATA,
                target_fraction=f"{SEED_CONFIG}: mask_ratio",
                context_fraction=f"{SEED_CONFIG}: the rest",
            ),
        ),
    ),
)
MASKINGS = {one.name: one for one in _MASKINGS}

PUBLISHED = given_by(f"{PRETRAIN}; src/models/predictor.py", width=384, depth=12, heads=12)
SMALL = {
    "width": Given(48, "ours: half of the encoder, near the 384 of 1024 of V-JEPA 2"),
    "depth": Given(3, OURS),
    "heads": Given(3, OURS),
}
SLOW = given_by(PRETRAIN, ema_start=0.99925, ema_end=0.99925)
QUICK = {
    "ema_start": Given(0.98, "ours: quick enough for some hundred steps"),
    "ema_end": Given(1.0, IJEPA),
}
LEVELS = stated(
    DenseJepaConfig(),
    levels=f"{DENSE}/models/vision_transformer.py: blocks 2, 5, 8, 11",
    context_weight=f"{DENSE}: lambda_value_vid",
    context_start=f"{DENSE}: step 15,000 of 135,000",
    context_full=f"{DENSE}: step 30,000 of 135,000",
)
VOXELS = {
    "levels": LEVELS["levels"],
    **given_by(PHANTOMS, context_weight=1.0, context_start=0.0, context_full=0.05),
    "voxel_weight": Given(1.0, f"{PHANTOMS}; on real B-scans, docs/findings.md"),
}
UNITS = {
    **VOXELS,
    "voxel_weight": Given(0.33, "ours: a third of what is asked, by the count of numbers"),
    "unit_weight": Given(0.67, "ours: two thirds; on real B-scans, docs/findings.md"),
}
FILTERS = {
    **VOXELS,
    "voxel_weight": UNITS["voxel_weight"],
    "filter_weight": Given(0.67, "ours: as unit_weight of vjepa21_units"),
}
MASKED_VOXELS = {"voxel_weight": Given(1.0, PATCHES)}
ASIS = "predecessor, models/vjepa_3d.py and pretraining/train.py"


def _in_two_sizes(
    name: str,
    about: str,
    kind: type[ObjectiveConfig],
    masking: str,
    settings: Settings,
    smaller: str = "",
) -> tuple[NamedObjective, NamedObjective]:
    """A JEPA with V-JEPA 2's predictor and constant momentum, and NAME_smoke, a laptop's.

    Args:
        name: of the first.
        about: of the first.
        kind: of both.
        masking: name of the masks that both were made for.
        settings: of both, besides the momentum.
        smaller: about the second, if more is to be said than whose size it has.
    """
    first = NamedObjective(
        name=name,
        about=about,
        kind=kind,
        masking=MASKINGS[masking],
        predictor=PUBLISHED,
        settings={**SLOW, **settings},
    )
    second = replace(
        first,
        name=f"{name}_smoke",
        about=smaller or f"{name} at the size of a laptop.",
        predictor=SMALL,
        settings={**QUICK, **settings},
    )
    return first, second


_OBJECTIVES = (
    *_in_two_sizes(
        "vjepa2",
        "V-JEPA 2 as published: predictor 384 wide, 12 deep; constant momentum 0.99925.",
        JepaConfig,
        "multiblock",
        {},
        smaller="V-JEPA 2 at the size of a laptop: half-width predictor, a teacher quick enough "
        "for some hundred steps.",
    ),
    *_in_two_sizes(
        "vjepa21",
        "V-JEPA 2.1: four levels are predicted, visible patches too. Its weights have "
        "encoder.rotary=interleaved; preset=dense_oct sets it.",
        DenseJepaConfig,
        "multiblock",
        LEVELS,
        smaller="V-JEPA 2.1 at the size of a laptop.",
    ),
    *_in_two_sizes(
        "vjepa21_voxels",
        "V-JEPA 2.1 whose loss on visible patches sets in at once, and which says voxels "
        "too: the terms for small lesions.",
        DenseJepaConfig,
        "multiblock",
        VOXELS,
    ),
    *_in_two_sizes(
        "vjepa21_units",
        "vjepa21_voxels of single patches (masking=mae) that also says what fixed units see "
        "of a patch and its neighbours: for finding what is small with few masks.",
        DenseJepaConfig,
        "mae",
        UNITS,
    ),
    *_in_two_sizes(
        "vjepa21_filters",
        "vjepa21_units with a bank of classical filters, Gaussian derivatives at four scales, in "
        "the place of the random units.",
        DenseJepaConfig,
        "mae",
        FILTERS,
    ),
    *_in_two_sizes(
        "vjepa2_voxels",
        "V-JEPA 2 that says voxels too, of single patches (masking=mae).",
        JepaConfig,
        "mae",
        MASKED_VOXELS,
    ),
    NamedObjective(
        name="mae",
        about="Masked autoencoding (He and others 2021): a decoder of 512 x 8 fills in voxels. "
        "With masking=multiblock it is the first stage of SALT.",
        kind=MaeConfig,
        masking=MASKINGS["mae"],
    ),
    NamedObjective(
        name="mae_smoke",
        about="Masked autoencoding at the size of a laptop; the first stage of SALT with "
        "masking=multiblock.",
        kind=MaeConfig,
        masking=MASKINGS["mae"],
        predictor=SMALL,
    ),
    NamedObjective(
        name="mae_spectral_smoke",
        about="mae_smoke that asks for the amplitude spectrum of each patch too.",
        kind=MaeConfig,
        masking=MASKINGS["mae"],
        predictor=SMALL,
        settings={"spectral_weight": Given(1.0, "ours, after arXiv 2606.13315")},
    ),
    NamedObjective(
        name="salt",
        about="SALT (arXiv 2509.24317): features of a frozen teacher, with V-JEPA 2's predictor; "
        "needs objective.teacher=FOLDER, the encoder/ of a run with objective=mae, or any other "
        "saved encoder.",
        kind=SaltConfig,
        masking=MASKINGS["multiblock"],
        predictor=PUBLISHED,
    ),
    NamedObjective(
        name="salt_smoke",
        about="SALT at the size of a laptop; needs objective.teacher=FOLDER, such as "
        "runs/x/encoder of a run with objective=mae_smoke.",
        kind=SaltConfig,
        masking=MASKINGS["multiblock"],
        predictor=SMALL,
    ),
    NamedObjective(
        name="lejepa",
        about="LeJEPA (arXiv 2511.08544): views agree, embeddings are Gaussian.",
        kind=LeJepaConfig,
        masking=MASKINGS["multiblock"],
    ),
    NamedObjective(
        name="lejepa_smoke",
        about="LeJEPA at the size of a laptop.",
        kind=LeJepaConfig,
        masking=MASKINGS["multiblock"],
        settings=given_by(OURS, directions=256, hidden=192, embedding=16),
    ),
    NamedObjective(
        name="dino",
        about="DINO (arXiv 2104.14294): views of a volume fall into the same of 65,536 classes.",
        kind=DinoConfig,
        masking=MASKINGS["multiblock"],
    ),
    NamedObjective(
        name="dino_smoke",
        about="DINO at the size of a laptop: 256 classes, a teacher quick enough for some hundred "
        "steps.",
        kind=DinoConfig,
        masking=MASKINGS["multiblock"],
        settings={
            **given_by(OURS, prototypes=256, hidden=192, bottleneck=32),
            "ema_start": QUICK["ema_start"],
        },
    ),
    NamedObjective(
        name="predecessor_fixed",
        about="The predecessor's objective with what it meant to do: hidden patches, a moving "
        "teacher.",
        kind=TwoViewConfig,
        masking=MASKINGS["predecessor"],
        settings={"ema_start": Given(0.99, "ours: quick enough for a thousand steps")},
    ),
    NamedObjective(
        name="predecessor_asis",
        about="The predecessor's objective as it ran: nothing is hidden and the teacher is random. "
        "To compare with, not to use.",
        kind=TwoViewConfig,
        masking=MASKINGS["predecessor"],
        settings=given_by(
            ASIS,
            context_masked=False,
            teacher_frozen=True,
            positions=False,
            views=ViewConfig(aligned=False),
        ),
    ),
)
OBJECTIVES = {one.name: one for one in _OBJECTIVES}
