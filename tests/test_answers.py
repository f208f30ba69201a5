"""What oct_io answers is what oct_vjepa takes for a target, for every task of a phantom."""

from pathlib import Path

import pytest
from oct_io import PhantomTree, SourceConfig, TreeError, open_source
from oct_io.labels.questions import LabelQuestion
from oct_vjepa.measures.target import KINDS, Target
from omegaconf import OmegaConf

TASKS = Path(__file__).parent.parent / "configs" / "task"
TREE = PhantomTree(
    participants=32,
    shape=(4, 24, 16),
    jobs=1,
    devices=("phantom_a", "phantom_b"),
    arrangements=("folded",),
)
OF_AI_READI = {"age_at_visit", "hba1c"}  # columns that are made of its clinical tables
OF_ONE_CLASS = {"region"}  # phantoms show one region


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    place = tmp_path_factory.mktemp("answers")
    config = SourceConfig(
        root=str(place / "data"), cache=str(place / "cache"), window="tiny", jobs=1, phantom=TREE
    )
    return open_source(config)


@pytest.mark.parametrize("task", sorted(path.stem for path in TASKS.glob("*.yaml")))
def test_a_task_on_a_phantom_has_a_target_for_each_volume(source, task):
    tree = OmegaConf.merge(
        OmegaConf.structured(LabelQuestion), OmegaConf.load(TASKS / f"{task}.yaml")
    )
    question = OmegaConf.to_object(tree)
    if task in OF_AI_READI | OF_ONE_CLASS:
        with pytest.raises(
            TreeError, match="no label column" if task in OF_AI_READI else "1 class"
        ):
            source.labelled(question)
        return
    found = source.labelled(question, attributes=["@device", "@site", "sex", "age"])
    target = Target(kind=found.kind, values=found.values, names=found.names, unit=found.unit)
    assert target.known.all()
    assert len(target) == len(found.volumes) == len(found.parts) == len(found.eyes) == 64
    assert {len(cells) for cells in found.columns.values()} == {64}
    assert target.kind == question.kind or question.kind == "auto"


def test_the_kinds_of_both_are_the_same():
    from oct_io.labels import questions

    assert ("auto", *KINDS) == questions.KINDS
