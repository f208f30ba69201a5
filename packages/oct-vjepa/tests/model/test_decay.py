"""Weight decay keeps maps small, and nothing else, whoever asks for the groups."""

import pytest
from oct_vjepa import Encoder, EncoderConfig, Jepa, JepaConfig, PredictorConfig
from oct_vjepa.heads.adapters import add_lora
from oct_vjepa.heads.attentive import AttentiveHead, CrossAttentionHead
from oct_vjepa.heads.configuration import FinetuningConfig, LoraConfig
from oct_vjepa.heads.mlp import MlpHead
from oct_vjepa.heads.segmentation import SegmentationHead, Segmenter
from oct_vjepa.heads.supervised import Supervised
from oct_vjepa.model.decay import decay_groups, decays
from oct_vjepa.objectives.configuration import DenseJepaConfig, TwoViewConfig
from oct_vjepa.objectives.twoview import TwoView
from torch import nn

PREDICTOR = PredictorConfig(width=24, depth=2, heads=2)
FULL = FinetuningConfig(mode="full")
CLASSES = ["a", "b"]


def encoder():
    """One whose positions are a parameter."""
    config = EncoderConfig(
        input_shape=(4, 16, 24), patch_size=(2, 4, 8), width=48, depth=2, heads=3,
        positions="learned",
    )  # fmt: skip
    return Encoder(config)


def with_lora():
    pytest.importorskip("peft")
    return add_lora(encoder(), LoraConfig(rank=2), seed=0)


MODULES = {
    "jepa": lambda: Jepa(encoder(), JepaConfig(predictor=PREDICTOR)),
    "dense": lambda: Jepa(encoder(), DenseJepaConfig(predictor=PREDICTOR, levels=2)),
    "twoview": lambda: TwoView(encoder(), TwoViewConfig()),
    "attentive": lambda: AttentiveHead(width=48, classes=CLASSES, heads=3, depth=2),
    "cross attention": lambda: CrossAttentionHead(width=48, classes=CLASSES, inner=8, heads=2),
    "mlp": lambda: MlpHead(width=48, classes=CLASSES, hidden=8),
    "segmentation": lambda: SegmentationHead(
        width=48, classes=CLASSES, patch_size=(2, 4, 8), hidden=8
    ),
    "lora": with_lora,
}


def maps_of(module):
    """Names of the weights of linear maps and convolutions."""
    return {
        f"{name}.weight"
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear | nn.Conv3d)
    }


def names_of(module, groups):
    """Names of the parameters that some groups decay, and of those that they do not."""
    names = {id(weight): name for name, weight in module.named_parameters()}
    found = {0.1: set(), 0.0: set()}
    for group in groups:
        found[group["weight_decay"]] |= {names[id(weight)] for weight in group["params"]}
    return found[0.1], found[0.0]


@pytest.mark.parametrize("name", MODULES)
def test_of_all_that_we_build_the_maps_decay_and_nothing_else(name):
    module = MODULES[name]()
    found = {name for name, weight in module.named_parameters() if decays(name, weight)}
    assert found == maps_of(module)
    assert found < dict(module.named_parameters()).keys()


@pytest.mark.parametrize("name", ["jepa", "dense", "twoview"])
def test_an_objective_groups_all_that_learns_by_that_rule(name):
    objective = MODULES[name]()
    decayed, free = names_of(objective, objective.parameter_groups(0.1))
    learning = {name for name, weight in objective.named_parameters() if weight.requires_grad}
    assert decayed == maps_of(objective) & learning
    assert free == learning - decayed


@pytest.mark.parametrize(
    "made",
    [
        lambda: Supervised(encoder(), MODULES["attentive"](), finetuning=FULL),
        lambda: Segmenter(encoder(), MODULES["segmentation"](), FULL),
    ],
    ids=["classifier", "segmenter"],
)
def test_fine_tuning_groups_encoder_and_head_by_that_rule(made):
    objective = made()
    decayed, free = names_of(objective, objective.parameter_groups(0.1))
    assert decayed == maps_of(objective)
    assert free == dict(objective.named_parameters()).keys() - decayed


def test_groups_leave_out_what_is_frozen():
    head = MODULES["mlp"]()
    head.fc1.requires_grad_(False)
    decayed, free = decay_groups(head, 0.1)
    assert decayed["params"][0] is head.fc2.weight
    assert free["params"][0] is head.fc2.bias
    assert [len(group["params"]) for group in (decayed, free)] == [1, 1]
