"""The online probe of a pretraining run: whom it asks about, and that it changes nothing."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from oct_io import PhantomTree, SourceConfig, labelled, open_source
from oct_vjepa import Encoder, EncoderConfig, Jepa, JepaBatch, JepaConfig
from oct_vjepa.evaluation import online
from oct_vjepa.evaluation.online import OnlineProbe

WATCHING = Path(__file__).parent.parent / "apps" / "pretrain" / "watching.py"
TREE = PhantomTree(
    participants=16, shape=(4, 40, 32), split_fractions=(0.5, 0.0, 0.5), devices=("phantom_a",),
    jobs=1,
)  # fmt: skip
COLUMNS = ("thin", "fluid", "drusen")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    place = tmp_path_factory.mktemp("watched")
    config = SourceConfig(
        root=str(place / "data"), cache=str(place / "cache"), window="tiny", jobs=1, phantom=TREE
    )
    return open_source(config)


@pytest.fixture(scope="module")
def watching():
    return runpy.run_path(str(WATCHING))


@pytest.fixture(scope="module")
def make_probe(watching, source):
    def make(columns=COLUMNS, count=8):
        questions = {column: source.labelled(column) for column in columns}
        return watching["make_probe"](source.volumes, questions, count, seed=0)

    return make


def test_a_volume_without_a_label_is_marked_alike_by_who_chooses_and_by_who_probes():
    assert labelled.UNLABELLED == online.UNLABELLED


def test_without_columns_or_volumes_there_is_no_probe(make_probe):
    assert make_probe(columns=()) is None
    assert make_probe(count=0) is None


def test_watching_draws_nothing_and_leaves_the_model_as_it_was(make_probe, watching, source):
    torch.manual_seed(0)
    jepa = Jepa(Encoder(EncoderConfig(depth=1)), JepaConfig()).train()
    voxels = torch.from_numpy(np.stack([source.volumes[n] for n in range(4)])).unsqueeze(1)
    watch = watching["Watch"](jepa, JepaBatch(voxels, ()), make_probe(), 4)
    before = {name: value.clone() for name, value in jepa.state_dict().items()}
    state, numbers = torch.get_rng_state(), watch(4)
    assert torch.equal(torch.get_rng_state(), state)
    assert jepa.training
    assert all(torch.equal(value, before[name]) for name, value in jepa.state_dict().items())
    assert numbers == watch(8)
    assert {"effective_rank", *(f"probe_linear_auroc_{name}" for name in COLUMNS)} <= set(numbers)


def test_a_probe_is_of_the_teacher_and_not_of_the_student(make_probe, watching, source):
    torch.manual_seed(0)
    jepa = Jepa(Encoder(EncoderConfig(depth=1)), JepaConfig())
    for weight in jepa.encoder.parameters():
        weight.data.zero_()
    voxels = torch.from_numpy(np.stack([source.volumes[n] for n in range(4)])).unsqueeze(1)
    probe = make_probe()
    assert isinstance(probe, OnlineProbe)
    numbers = watching["Watch"](jepa, JepaBatch(voxels, ()), probe, 4)(1)
    assert probe(jepa.teacher.encoder).items() <= numbers.items()
    assert not probe(jepa.encoder).items() <= numbers.items()


def test_volumes_are_looked_at_in_parts_that_fit_in_memory(
    make_probe, watching, source, monkeypatch, capsys
):
    torch.manual_seed(0)
    jepa = Jepa(Encoder(EncoderConfig(depth=1)), JepaConfig())
    voxels = torch.from_numpy(np.stack([source.volumes[n] for n in range(8)])).unsqueeze(1)
    whole = watching["Watch"](jepa, JepaBatch(voxels, ()), make_probe(), 8)(1)
    sizes, forward = [], Encoder.forward

    def tight(self, volume, *args, **given):
        sizes.append(len(volume))
        if len(volume) > 2:
            raise torch.OutOfMemoryError("out of memory: tried to allocate 2 GiB")
        return forward(self, volume, *args, **given)

    monkeypatch.setattr(Encoder, "forward", tight)
    watch = watching["Watch"](jepa, JepaBatch(voxels, ()), make_probe(), 8)
    parted = watch(1)
    assert sizes[:6] == [8, 4, 2, 2, 2, 2]
    assert parted == pytest.approx(whole, abs=1e-5)
    told = capsys.readouterr().err.splitlines()
    assert told == [
        f"volumes of an evaluation: out of memory with {size} at a time; going on with {size // 2}"
        for size in (8, 4)
    ]
    sizes.clear()
    assert watch(2) == parted
    assert max(sizes) == 2, "what was found out holds"


def test_a_process_that_computes_with_others_does_not_take_less_by_itself(watching):
    def ask(at_once):
        raise torch.OutOfMemoryError(f"out of memory with {at_once}")

    together = watching["Watch"](None, None, None, 8, alone=False)
    together._look = ask
    with pytest.raises(torch.OutOfMemoryError, match=r"with 8$"):
        together(1)


def test_the_last_part_may_be_smaller(make_probe, watching, source, monkeypatch):
    jepa = Jepa(Encoder(EncoderConfig(depth=1)), JepaConfig())
    voxels = torch.from_numpy(np.stack([source.volumes[n] for n in range(6)])).unsqueeze(1)
    sizes, forward = [], Encoder.forward

    def noting(self, volume, *args, **given):
        sizes.append(len(volume))
        return forward(self, volume, *args, **given)

    monkeypatch.setattr(Encoder, "forward", noting)
    jepa.diagnostics(voxels, at_once=4)
    assert sizes == [4, 2]
