"""Encoders side by side on labelled volumes: who is embedded how often, and the order of rows."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oct_vjepa import Encoder, embed_volumes
from oct_vjepa.evaluation.encoders import ProbeConfig, probe_encoders

pytest.importorskip("sklearn")

COUNT = 24


class Volumes(list):
    """Volumes that know their spacing."""

    @property
    def spacings(self):
        return np.ones((len(self), 3))


def examples(labels, fingerprint="all"):
    """Volumes of 24 participants, brighter for one class, half of them held out."""
    rng = np.random.default_rng(0)
    brighter = 60 * (np.arange(COUNT) % 2)
    voxels = rng.integers(0, 100, size=(COUNT, 4, 16, 24)) + brighter[:, None, None, None]
    return SimpleNamespace(
        volumes=Volumes(voxels.astype(np.uint8)),
        labels=labels,
        participants=np.array([f"p{number:02d}" for number in range(COUNT)]),
        held_out=np.arange(COUNT) >= COUNT // 2,
        fingerprint=fingerprint,
    )


@pytest.fixture
def encoders(small_config):
    torch.manual_seed(1)
    return {"pretrained": Encoder(small_config), "random init": Encoder(small_config)}


@pytest.fixture
def ask(encoders):
    def ask(questions, pools=("mean",)):
        calls = []

        def embed(encoder, asked):
            name = next(name for name, one in encoders.items() if one is encoder)
            calls.append((name, asked.fingerprint))
            return embed_volumes(encoder, asked.volumes, spacing=asked.volumes.spacings)

        config = ProbeConfig(pools=list(pools), bootstrap=100)
        return probe_encoders(config, encoders, questions, embed, seed=0), calls

    return ask


def test_each_encoder_and_the_axial_profile_is_asked_about_each_column(ask):
    labels = np.arange(COUNT) % 2
    rows, _ = ask({"bright": examples(labels), "dark": examples(1 - labels)})
    names = [(row.column, row.features, row.pool) for row in rows]
    assert names[:3] == [
        ("bright", "pretrained", "mean"),
        ("bright", "random init", "mean"),
        ("bright", "axial profile", ""),
    ]
    assert [name[0] for name in names[3:]] == ["dark"] * 3
    assert [row.gain is not None for row in rows[:3]] == [True, False, False]
    assert rows[2].result.auroc == 1.0, "the axial profile sees what is brighter"


def test_equal_volumes_are_embedded_once_for_all_columns_and_others_again(ask):
    labels = np.arange(COUNT) % 2
    _, calls = ask(
        {"a": examples(labels), "b": examples(1 - labels), "c": examples(labels, "others")}
    )
    assert calls == [
        ("pretrained", "all"), ("random init", "all"),
        ("pretrained", "others"), ("random init", "others"),
    ]  # fmt: skip


def test_pools_are_told_in_one_order_however_they_were_asked_for(ask):
    rows, _ = ask({"bright": examples(np.arange(COUNT) % 2)}, pools=("max", "mean"))
    assert [row.pool for row in rows] == ["mean", "max", "mean", "max", ""]
