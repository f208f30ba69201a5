"""Covering a volume part by part finds the part that a score hangs on."""

import numpy as np
from oct_vjepa.evaluation.occlusion import cut, occlude

PATCH = (2, 4, 8)


def test_parts_are_of_whole_patches_and_cover_an_axis_once():
    for length, patch, parts in ((64, 8, 6), (8, 2, 5), (40, 4, 6)):
        pieces = cut(length, patch, parts)
        assert len(pieces) == min(parts, length // patch)
        assert np.concatenate([np.arange(length)[one] for one in pieces]).tolist() == [
            *range(length)
        ]
        assert all(one.start % patch == 0 for one in pieces)


def test_a_score_that_reads_one_corner_falls_there_alone():
    volume = np.zeros((8, 24, 48), np.uint8)
    volume[6:, 4:8, 40:] = 200
    seen = []

    def score(volumes):
        seen.append(len(volumes))
        return volumes[:, 6:, 4:8, 40:].mean(axis=(1, 2, 3)).astype(np.float64)

    found = occlude(volume, PATCH, score, batch=7)
    assert found.score == 200
    assert found.front_YX.shape == (6, 6)
    assert found.above_ZX.shape == (4, 5)
    assert np.unravel_index(found.front_YX.argmax(), (6, 6)) == (1, 5)
    assert (found.front_YX > 0).sum() == 1
    assert np.unravel_index(found.above_ZX.argmax(), (4, 5)) == (3, 4)
    assert max(seen) == 7, "no more at once than asked for"
    assert sum(seen) == 1 + 36 + 20
    assert volume[6, 4, 40] == 200, "the volume itself is left as it was"
