"""Embedding many volumes: equal files however often it was killed, from any source."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from oct_vjepa import Encoder, EncoderConfig, embed_volumes, pool_tokens
from oct_vjepa.cli import main
from oct_vjepa.commands.embed import Progress, spell
from oct_vjepa.evaluation.embedding import EmbeddingConfig, EmbeddingError, embed_source
from oct_vjepa.evaluation.sources import (
    FolderVolumes,
    SourceError,
    VolumeSource,
    open_source,
    read_array,
)
from oct_vjepa.evaluation.tables import read_embeddings
from safetensors.numpy import load_file, save_file

SHAPE = (4, 16, 24)
SLOW = """
import time
from oct_vjepa.evaluation.sources import FolderVolumes

class Slow(FolderVolumes):
    def __getitem__(self, number):
        time.sleep(0.05)
        return super().__getitem__(number)

def open_slow(place):
    return Slow(place)

def open_poor(place):
    return [1, 2]
"""


@pytest.fixture
def folder(tmp_path):
    """Eleven volumes in three formats, one in a folder of its own."""
    place, rng = tmp_path / "volumes", np.random.default_rng(0)
    (place / "deep").mkdir(parents=True)
    for number in range(11):
        volume = rng.integers(0, 255, SHAPE, dtype=np.uint8)
        if number % 3 == 0:
            np.save(place / f"v{number:02d}.npy", volume)
        elif number % 3 == 1:
            np.savez(place / "deep" / f"v{number:02d}.npz", volume=volume, other=np.zeros(3))
        else:
            save_file({"voxels": volume}, place / f"v{number:02d}.safetensors")
    (place / "notes.txt").write_text("not a volume")
    return place


@pytest.fixture
def saved(encoder, tmp_path):
    encoder.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.mark.parametrize("form", ["parquet", "safetensors"])
def test_every_volume_has_its_features_under_its_name(form, folder, encoder, tmp_path):
    out = tmp_path / f"out.{form}"
    config = EmbeddingConfig(pools=["mean_std", "max"], tokens=True, batch_size=3)
    assert embed_source(encoder, FolderVolumes(folder), out, config)
    found = read_embeddings(out)
    source = FolderVolumes(folder)
    assert found.ids == source.ids
    assert "deep/v01.npz" in found.ids
    assert len(found.ids) == 11
    for number in range(11):
        with torch.no_grad():
            tokens = encoder.eval()(torch.from_numpy(source[number])[None, None])
        assert np.abs(found.columns["tokens"][number] - tokens[0].numpy()).max() < 1e-5
        for pool in ("mean_std", "max"):
            wanted = pool_tokens(tokens, pool)[0].numpy()
            assert np.abs(found.columns[pool][number] - wanted).max() < 1e-5
    assert found.about["plan"]["pools"] == ["mean_std", "max"]
    assert not out.with_name(f"{out.name}.parts").exists()


def test_both_formats_open_with_their_own_libraries(folder, encoder, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    for form in ("parquet", "safetensors"):
        embed_source(encoder, FolderVolumes(folder), tmp_path / f"out.{form}")
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["id", "mean"]
    rows = np.array(table.column("mean").to_pylist(), dtype=np.float32)
    assert np.array_equal(rows, load_file(tmp_path / "out.safetensors")["mean"])


def run_and_kill(arguments, parts, enough, path):
    """Start the command in a process of its own and kill it once it has saved `enough` parts."""
    code = "import sys, torch; torch.set_num_threads(1); from oct_vjepa.cli import main; "
    code += "sys.exit(main(sys.argv[1:]))"
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while len(list(parts.glob("part-*"))) < enough and time.monotonic() < deadline:
        assert child.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL


@pytest.mark.parametrize("form", ["parquet", "safetensors"])
def test_killed_and_started_again_it_writes_the_same_bytes(
    form, folder, saved, tmp_path, monkeypatch, capsys
):
    (tmp_path / "slow_volumes.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    out, whole = tmp_path / f"out.{form}", tmp_path / f"whole.{form}"
    ask = ["embed", str(folder), "--encoder", str(saved), "--batch", "2", "--pool", "mean"]
    ask += ["--source", "slow_volumes:open_slow"]
    parts = tmp_path / f"{out.name}.parts"
    run_and_kill([*ask, "--save-every", "0", str(out)], parts, 2, tmp_path)
    assert not out.exists()
    torn = parts / ".part-000000008-000000010.safetensors.draft"
    torn.write_bytes(b"torn")
    (parts / "part-000000010-000000011.safetensors").write_bytes(b"torn")  # by a power cut
    assert main([*ask, str(out)]) == 0
    assert " were done before" in capsys.readouterr().err
    assert main([*ask, str(whole)]) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert read_embeddings(out).ids == FolderVolumes(folder).ids
    assert not parts.exists()
    assert main([*ask, str(out)]) == 0
    assert "is there already" in capsys.readouterr().out


class Listed:
    """Volumes in memory; counts how often each was read."""

    def __init__(self, volumes, ids=None):
        self.volumes = volumes
        self.ids = [f"v{number}" for number in range(len(volumes))] if ids is None else ids
        self.reads = []

    def __len__(self):
        return len(self.volumes)

    def __getitem__(self, number):
        self.reads.append(number)
        if isinstance(self.volumes[number], Exception):
            raise self.volumes[number]
        return self.volumes[number]


def zeros(shape=SHAPE, dtype=np.uint8):
    return np.zeros(shape, dtype=dtype)


def test_a_bad_volume_is_named_and_what_was_done_before_it_is_not_done_again(encoder, tmp_path):
    out, config = tmp_path / "out.safetensors", EmbeddingConfig(batch_size=1, save_every_s=0)
    source = Listed([zeros(), zeros(), OSError("disk on fire"), zeros()])
    assert isinstance(source, VolumeSource)
    with pytest.raises(EmbeddingError, match=r"v2: cannot be read \(disk on fire\)"):
        embed_source(encoder, source, out, config)
    assert not out.exists()
    source.volumes[2], source.reads = zeros(), []
    seen = []
    embed_source(encoder, source, out, config, report=lambda done, every: seen.append(done))
    assert source.reads == [2, 3]
    assert seen == [2, 3, 4]


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        (zeros((4, 16, 25)), "v1: axis X has 25 voxels"),
        (zeros((16, 24)), r"v1: is uint8 \(16, 24\)"),
        (zeros(dtype=np.complex64), "v1: is complex64"),
        (np.full(SHAPE, np.nan, dtype=np.float32), "v1: its features are not finite"),
    ],
)
def test_a_volume_that_cannot_be_embedded_is_refused_by_name(volume, words, encoder, tmp_path):
    source = Listed([zeros(), volume])
    with pytest.raises(EmbeddingError, match=words):
        embed_source(encoder, source, tmp_path / "out.safetensors")


def test_tokens_of_an_encoder_in_bfloat16_are_kept_in_float32(folder, encoder, tmp_path):
    out = tmp_path / "out.safetensors"
    embed_source(encoder.bfloat16(), FolderVolumes(folder), out, EmbeddingConfig(tokens=True))
    columns = read_embeddings(out).columns
    assert columns["tokens"].dtype == np.float32
    assert np.abs(columns["tokens"].mean(axis=1) - columns["mean"]).max() < 1e-5


def test_layers_are_pooled_side_by_side_and_belong_to_the_job(folder, saved, tmp_path, capsys):
    out = tmp_path / "x.safetensors"
    ask = ["embed", str(folder), str(out), "--encoder", str(saved)]
    assert main([*ask, "--layers", "0", "1"]) == 0
    encoder = Encoder.from_pretrained(saved)
    wanted = embed_volumes(encoder, FolderVolumes(folder), pools=["mean"], layers=[0, 1])
    assert wanted["mean"].shape == (11, 2 * encoder.config.width)
    found = read_embeddings(out).columns["mean"]
    np.testing.assert_allclose(found, wanted["mean"], atol=1e-5)
    assert main(ask) == 2
    assert "other settings" in capsys.readouterr().err


def test_volumes_of_several_shapes_share_a_table_of_pools_but_not_of_tokens(encoder, tmp_path):
    source = Listed([zeros(), zeros((2, 8, 8)), zeros()])
    embed_source(encoder, source, tmp_path / "out.safetensors")
    rows = read_embeddings(tmp_path / "out.safetensors").columns["mean"]
    assert np.array_equal(rows[0], rows[2])
    assert not np.array_equal(rows[0], rows[1])
    for batch in (1, 3):
        config = EmbeddingConfig(tokens=True, batch_size=batch, save_every_s=0)
        for _ in range(2):  # also when it goes on from the parts that it has
            with pytest.raises(EmbeddingError, match="v1: has 2 tokens, volumes before it 24"):
                embed_source(encoder, source, tmp_path / f"{batch}.safetensors", config)


def test_work_of_another_job_is_not_taken_over(encoder, small_config, tmp_path):
    out = tmp_path / "out.safetensors"
    source = Listed([zeros(), zeros()])
    embed_source(encoder, source, out)
    other = Encoder(small_config)
    with pytest.raises(EmbeddingError, match="another encoder"):
        embed_source(other, source, out)
    assert embed_source(other, source, out, restart=True)
    broken = Listed([zeros(), OSError("no")])
    with pytest.raises(EmbeddingError):
        embed_source(encoder, broken, tmp_path / "b.safetensors", EmbeddingConfig(batch_size=1))
    with pytest.raises(EmbeddingError, match="holds parts of another"):
        embed_source(encoder, source, tmp_path / "b.safetensors")
    with pytest.raises(EmbeddingError, match="'a' is there twice"):
        embed_source(encoder, Listed([zeros(), zeros()], ids=["a", "a"]), out)
    (tmp_path / "mine.parquet").write_text("somebody's notes")
    with pytest.raises(EmbeddingError, match=r"mine\.parquet: is there"):
        embed_source(encoder, source, tmp_path / "mine.parquet")


def test_an_encoder_that_counts_in_lengths_gets_the_spacing_of_the_source(tmp_path):
    torch.manual_seed(0)
    config = EncoderConfig(
        input_shape=SHAPE, patch_size=(2, 4, 8), width=48, depth=1, heads=3, position_unit="length"
    )
    encoder = Encoder(config)
    source = Listed([np.random.default_rng(0).integers(0, 255, SHAPE, dtype=np.uint8)] * 2)
    with pytest.raises(EmbeddingError, match="has no `spacing`"):
        embed_source(encoder, source, tmp_path / "a.safetensors")
    source.spacing = np.array([[0.1, 0.01, 0.01], [4.0, 0.5, 0.5]])
    embed_source(encoder, source, tmp_path / "b.safetensors")
    rows = read_embeddings(tmp_path / "b.safetensors").columns["mean"]
    assert not np.array_equal(rows[0], rows[1])
    source.spacings = source.spacing[::-1]
    embed_source(encoder, source, tmp_path / "c.safetensors")
    swapped = read_embeddings(tmp_path / "c.safetensors").columns["mean"]
    np.testing.assert_allclose(swapped, rows[::-1], atol=1e-6)


def test_sources_that_cannot_be_opened_say_why_in_one_line(tmp_path, monkeypatch, folder):
    (tmp_path / "poor_volumes.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    cases = {
        "must be module:function": (folder, "oct_io"),
        "cannot be imported": (folder, "nowhere_at_all:open"),
        "lacks ids": (folder, "poor_volumes:open_poor"),
        "is not a folder": (tmp_path / "missing", ""),
        "cannot open it": (tmp_path / "missing", "poor_volumes:open_slow"),
    }
    for words, (place, opener) in cases.items():
        with pytest.raises(SourceError, match=words):
            open_source(str(place), opener)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="nothing to embed"):
        open_source(str(tmp_path / "empty"))


def test_files_that_hold_objects_or_several_volumes_are_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(SourceError, match=r"objects\.npy: cannot be read"):
        read_array(tmp_path / "objects.npy")
    np.savez(tmp_path / "two.npz", left=np.zeros(2), right=np.zeros(2))
    with pytest.raises(SourceError, match=r"\['left', 'right'\]; call the volume volume or voxels"):
        read_array(tmp_path / "two.npz")
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(SourceError, match=r"torn\.safetensors: cannot be read"):
        read_array(tmp_path / "torn.safetensors")


def test_mistakes_of_the_user_are_one_line_and_code_2(folder, saved, tmp_path, capsys):
    ask = ["embed", str(folder), "--encoder", str(saved)]
    for arguments, words in (
        ([*ask, str(tmp_path / "out.csv")], "say --format parquet or safetensors"),
        ([*ask, str(tmp_path / "o.parquet"), "--batch", "0"], "embedding.batch_size (0)"),
        ([*ask, str(tmp_path / "o.parquet"), "--pool", "cls"], "needs an encoder with a class"),
        ([*ask, str(tmp_path / "o.parquet"), "--device", "toaster"], "'toaster'"),
        ([*ask, str(tmp_path / "o.parquet"), "--device", "cuda:99"], "'cuda:99') is not there"),
        (["embed", "x", "o.parquet", "--encoder", str(saved)], "is not a folder"),
        (["embed", str(folder), "o.parquet", "--encoder", "nowhere"], "cannot be read"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert words in error[-1]


def test_progress_says_rate_and_time_left(capsys, monkeypatch):
    clock = iter([0.0, 2.0, 10.0, 12.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    progress = Progress()
    for done in (100, 110, 200, 1000):
        progress(done, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "1,000 volumes; 100 were done before",
        "200 of 1,000 volumes, 10 a second, 1 min 20 s left",
        "1,000 of 1,000 volumes, 75 a second",
    ]
    assert spell(7325) == "2 h 2 min"
