"""Features that are kept are those of an encoder that is asked anew, and so is what is fitted."""

import numpy as np
import torch
from oct_vjepa import Encoder, EncoderConfig
from oct_vjepa.evaluation.features import embed_volumes, load_or_embed
from oct_vjepa.evaluation.readouts import ReadoutConfig, read_out
from oct_vjepa.measures.target import Target
from oct_vjepa.probes.configuration import GridConfig
from oct_vjepa.probes.grid import KINDS, fit_grid
from oct_vjepa.probes.protocol import Round

SMALL = EncoderConfig(input_shape=(4, 16, 16), patch_size=(2, 8, 8), width=24, depth=2, heads=2)
GRID = GridConfig(widths=(8,), epochs=5)


def test_what_is_kept_and_what_is_fitted_on_it_is_that_of_no_cache_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    encoder = Encoder(SMALL).eval()
    volumes = np.random.default_rng(0).integers(0, 255, (48, 4, 16, 16), dtype=np.uint8)
    readout = ReadoutConfig(blocks=["last", "all"], pools=["mean", "mean_std"])
    how = {"batch_size": 16, "pools": readout.pools, "layers": range(2)}

    def kept(given):
        return load_or_embed(encoder, given, volumes_fingerprint="v", folder=tmp_path, **how)

    anew = embed_volumes(encoder, volumes, **how)
    first, again = kept(volumes), kept([])  # nothing to embed: it must come from disk
    for found in (first, again):
        assert found.keys() == anew.keys()
        for pool, rows in anew.items():
            assert found[pool].dtype == rows.dtype
            assert np.array_equal(found[pool], rows)
    turn = np.arange(48) % 3
    on = Round("", turn == 0, turn == 1, turn == 2)
    target = Target(kind="nominal", values=np.arange(48) // 3 % 2, names=("a", "b"))
    for kind in KINDS:
        said = []
        for features in (anew, again):
            rows = read_out(features, readout, 2)
            probe = fit_grid(kind, rows, target, np.arange(48), on, GRID, balanced=True, seed=0)
            said.append((probe.chosen, probe.predict(rows)))
        assert said[0][0] == said[1][0]
        assert np.array_equal(said[0][1], said[1][1])
