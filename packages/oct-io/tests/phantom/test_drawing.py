import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from oct_io.phantom import (
    DEVICES,
    LAYERS,
    SURFACES,
    Anatomy,
    Phantom,
    draw_phantom,
    draw_phantom_with_truth,
)
from oct_io.phantom.devices import _gamma, _normal
from oct_io.phantom.lesions import THIN_FRACTION
from oct_io.space.resample import WINDOWS, resample

SMALL = Phantom(shape=(6, 80, 48))
LESIONS = ("fluid", "drusen", "thin")


def voxels(spec, seed=0):
    return draw_phantom(spec, seed).voxels


def truth(spec, seed=0):
    return draw_phantom_with_truth(spec, seed)[1]


def test_equal_arguments_give_equal_voxels():
    np.testing.assert_array_equal(voxels(SMALL, 3), voxels(SMALL, 3))


def test_another_process_draws_the_same_voxels():
    code = (
        "import zlib; from oct_io.phantom import Phantom, draw_phantom;"
        "print(zlib.crc32(draw_phantom(Phantom(shape=(6, 80, 48), fluid=True), 3).voxels))"
    )
    env = os.environ | {"PYTHONHASHSEED": "7"}
    runs = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=e).stdout
        for e in (env, env | {"PYTHONHASHSEED": "8"})
    ]
    assert runs[0] == runs[1] != b""


@pytest.mark.parametrize("module", ["oct_io.phantom.tree", "oct_io.source_config"])
def test_what_only_describes_phantoms_does_not_wait_for_pydicom(module):
    code = f"import sys, {module}; print('pydicom' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "False"


def test_voxels_do_not_depend_on_the_number_of_threads():
    code = (
        "import zlib; from oct_io.phantom import Phantom, draw_phantom;"
        "print(zlib.crc32(draw_phantom(Phantom(shape=(4, 400, 300), bits=16), 3).voxels))"
    )
    seen = set()
    for threads in ("1", "2"):
        env = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        command = [sys.executable, "-c", code]
        seen.add(subprocess.run(command, check=True, capture_output=True, env=env).stdout)
    assert len(seen) == 1


def test_another_seed_draws_another_retina():
    assert not np.array_equal(truth(SMALL, 0).surfaces_um, truth(SMALL, 1).surfaces_um)


def test_asking_for_the_truth_does_not_change_the_voxels():
    np.testing.assert_array_equal(voxels(SMALL), draw_phantom_with_truth(SMALL, 0)[0].voxels)


def test_another_acquisition_shows_the_same_retina_with_new_speckle():
    again = replace(SMALL, acquisition=1)
    np.testing.assert_array_equal(truth(SMALL).surfaces_um, truth(again).surfaces_um)
    assert not np.array_equal(voxels(SMALL), voxels(again))


def test_two_devices_see_the_same_eye():
    extent = (6.0, 1.2, 6.0)
    a, b = (
        truth(replace(SMALL, device=name, extent_mm=extent)) for name in ("phantom_a", "phantom_b")
    )
    np.testing.assert_array_equal(a.surfaces_um, b.surfaces_um)


@pytest.mark.parametrize("seed", range(12))
def test_layers_never_cross(seed):
    anatomy = Anatomy(thickness_sd=0.3, layer_sd=0.2, undulation_sd=0.2)
    everything = Phantom(
        shape=(8, 40, 64), fluid=True, drusen=True, thin=True, study_group=3, effect=2.0,
        anatomy=anatomy,
    )  # fmt: skip
    surfaces = truth(everything, seed).surfaces_um
    assert surfaces.shape == (len(SURFACES), 8, 64)
    assert np.diff(surfaces, axis=0).min() >= -1e-3  # micrometres, of float32 near 1000


def test_the_fovea_is_a_pit_near_the_middle():
    spec = Phantom(shape=(25, 40, 65), anatomy=Anatomy(tilt_sd=0, fovea_offset_sd_mm=0))
    found = truth(spec).thickness_um
    inner = sum(found[name] for name in LAYERS[:5])
    middle, beside = inner[12, 32], inner[12, [12, 52]]
    assert middle < 0.25 * beside.min()
    assert np.argmin(inner) == 12 * 65 + 32


@pytest.mark.parametrize(("laterality", "nasal"), [("R", -8), ("L", 8)])
def test_nerve_fibres_are_thicker_on_the_nasal_side(laterality, nasal):
    found = truth(replace(SMALL, laterality=laterality)).thickness_um["rnfl"].mean(axis=0)
    temporal = found[:8] if nasal < 0 else found[-8:]
    nasal_side = found[nasal:] if nasal < 0 else found[:nasal]
    assert nasal_side.mean() > 1.5 * temporal.mean()


def test_the_two_eyes_of_a_person_are_alike_but_not_equal():
    def size(seed, eye):
        return sum(
            t.mean() for t in truth(replace(SMALL, laterality=eye), seed).thickness_um.values()
        )

    right = np.array([size(seed, "R") for seed in range(30)])
    left = np.array([size(seed, "L") for seed in range(30)])
    assert np.corrcoef(right, left)[0, 1] > 0.9
    assert np.all(right != left)


@pytest.mark.parametrize("lesion", LESIONS)
def test_a_lesion_changes_the_picture(lesion):
    changed = voxels(replace(SMALL, **{lesion: True})) != voxels(SMALL)
    assert changed.mean() > 0.01


@pytest.mark.parametrize("lesion", LESIONS)
def test_without_effect_a_lesion_is_only_a_label(lesion):
    null = replace(SMALL, effect=0.0)
    np.testing.assert_array_equal(voxels(null), voxels(replace(null, **{lesion: True})))


def test_without_effect_a_study_group_is_only_a_label():
    null = replace(SMALL, effect=0.0)
    np.testing.assert_array_equal(voxels(null), voxels(replace(null, study_group=3)))


def test_fluid_and_drusen_lie_where_they_lie_whatever_else_is_there():
    alone, together = Phantom(drusen=True), Phantom(drusen=True, fluid=True, thin=True)
    np.testing.assert_array_equal(truth(alone).drusen_um, truth(together).drusen_um)
    alone = Phantom(fluid=True)
    columns = truth(alone).fluid.any(axis=1)
    np.testing.assert_array_equal(columns, truth(replace(alone, drusen=True)).fluid.any(axis=1))


def test_thin_takes_from_three_layers_and_leaves_the_others():
    healthy, thin = truth(SMALL).thickness_um, truth(replace(SMALL, thin=True)).thickness_um
    for name in LAYERS:
        ratio = thin[name].sum() / max(healthy[name].sum(), 1e-6)
        expected = 1 - THIN_FRACTION if name in ("rnfl", "gcl", "ipl") else 1.0
        assert name == "druse" or ratio == pytest.approx(expected, abs=1e-3)


def test_thin_is_plain_to_an_oracle_that_knows_the_layers():
    def ratio(seed, thin):
        spec = Phantom(shape=(6, 2, 24), thin=thin)
        mean = {name: t.mean() for name, t in truth(spec, seed).thickness_um.items()}
        outer = mean["inl"] + mean["opl"] + mean["onl"] + mean["ez"] + mean["os"] + mean["rpe"]
        return (mean["rnfl"] + mean["gcl"] + mean["ipl"]) / outer

    thin = np.array([ratio(seed, True) for seed in range(100)])
    healthy = np.array([ratio(seed, False) for seed in range(100, 200)])
    auroc = (thin[:, None] < healthy[None, :]).mean()
    assert auroc > 0.99


def test_study_groups_thin_the_inner_layers_by_a_few_micrometres():
    means = []
    for group in range(4):
        found = truth(replace(SMALL, study_group=group)).thickness_um
        means.append(sum(found[name].mean() for name in ("rnfl", "gcl", "ipl")))
    np.testing.assert_allclose(means[0] - np.array(means), [0, 1.5, 3.5, 6.0], atol=0.05)


def test_cysts_are_dark_and_drusen_lift_the_pigment_epithelium():
    volume, found = draw_phantom_with_truth(Phantom(fluid=True), 1)
    assert found.fluid.any()
    around = volume.voxels[~found.fluid].mean()
    assert volume.voxels[found.fluid].mean() < around
    lifted = truth(Phantom(drusen=True), 1).drusen_um
    assert 40 < lifted.max() < 110


def test_vessels_throw_shadows():
    volume, found = draw_phantom_with_truth(Phantom(shape=(24, 160, 96)), 2)
    bruch = found.surfaces_um[SURFACES.index("choroid")]
    row_um = (np.arange(160) + 0.5) * volume.spacing.row * 1000
    below = (row_um[:, None] > bruch[:, None, :]) & (row_um[:, None] < bruch[:, None, :] + 100)
    dark = np.broadcast_to((found.shadow > 0.5)[:, None, :], below.shape)
    clear = np.broadcast_to((found.shadow == 0)[:, None, :], below.shape)
    assert volume.voxels[below & dark].mean() < volume.voxels[below & clear].mean() - 20


@pytest.mark.parametrize("name", ["phantom_a", "phantom_b", "phantom_c"])
def test_a_device_draws_its_own_grid(name):
    volume = draw_phantom(Phantom(device=name), 0)
    assert volume.voxels.shape == DEVICES[name].shape
    assert volume.extent_mm == pytest.approx(DEVICES[name].extent_mm)
    assert (volume.device, volume.spacing_source) == (name, "drawn")


def test_the_small_devices_differ_in_all_that_they_should():
    trio = [DEVICES[name] for name in ("phantom_a", "phantom_b", "phantom_c")]
    for field in ("extent_mm", "looks", "noise_db", "window_db"):
        assert len({getattr(device, field) for device in trio}) == 3


FIELDS = ("phantom_narrow", "phantom_medium", "phantom_wide")


def test_devices_of_different_field_differ_in_nothing_else():
    trio = [DEVICES[name] for name in FIELDS]
    spacings = [np.divide(device.extent_mm, device.shape) for device in trio]
    assert (np.diff(spacings, axis=0) > 0).all(), "the wider, the coarser, along every axis"
    alike = [replace(one, name="", extent_mm=(1.0, 1.0, 1.0)) for one in trio]
    assert alike[0] == alike[1] == alike[2]


@pytest.mark.parametrize("name", FIELDS)
def test_a_whole_field_stretched_to_one_shape_still_shows_the_retina(name):
    window, whole = WINDOWS["tiny_field"], []
    for seed in range(8):
        volume, found = draw_phantom_with_truth(Phantom(device=name), seed)
        cut = resample(volume, window)
        assert cut.voxels.shape == window.shape
        assert cut.spacing == pytest.approx(np.divide(volume.extent_mm, window.shape))
        inner, outer = found.surfaces_um[0], found.surfaces_um[SURFACES.index("choroid")]
        depth_um = 1000 * volume.extent_mm[1]
        whole.append(((inner > 0) & (outer < depth_um)).mean())
        retina_rows = np.median(outer - inner) / 1000 / cut.spacing.row
        assert retina_rows > 10
    assert np.mean(whole) > 0.9, "from the nerve fibres to Bruch's membrane"


def test_more_looks_mean_less_speckle(monkeypatch):
    def contrast(looks):
        monkeypatch.setitem(DEVICES, "test", replace(DEVICES["phantom_a"], looks=looks))
        spec = replace(SMALL, device="test")
        pair = [voxels(replace(spec, acquisition=i)).astype(float) for i in (0, 1)]
        bright = pair[0] + pair[1] > 200
        return np.abs(pair[0] - pair[1])[bright].mean()

    assert contrast(16) < 0.4 * contrast(1)


@pytest.mark.parametrize(
    ("levels", "mean", "variance", "fourth"),
    [
        (_normal(), 0, 1, 3),
        (_gamma(1), 1, 1, 9),
        (_gamma(6), 6, 6, 144),
        (_gamma(300), 300, 300, 271_800),
    ],
)
def test_speckle_and_noise_have_the_moments_of_their_distributions(levels, mean, variance, fourth):
    """About the mean; the fourth of a sum of k exponential variables is 3k(k + 2)."""
    apart = levels.astype(np.float64) - levels.mean(dtype=np.float64)
    assert levels.mean(dtype=np.float64) == pytest.approx(mean, rel=1e-4, abs=1e-4)
    assert (apart**2).mean() == pytest.approx(variance, rel=1e-3)
    assert (apart**4).mean() == pytest.approx(fourth, rel=1e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "x"}, r"device \('x'\) must be one of phantom_a"),
        ({"laterality": "OD"}, r"phantom\.laterality \('OD'\) must be 'R' or 'L'"),
        ({"study_group": 4}, r"phantom\.study_group \(4\)"),
        ({"effect": -1.0}, r"phantom\.effect \(-1\.0\)"),
        ({"shape": (1, 0, 3)}, r"phantom\.shape \(1, 0, 3\)"),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_rule(changes, message):
    with pytest.raises(ValueError, match=message):
        Phantom(**changes)


def test_lists_from_yaml_become_tuples():
    assert Phantom(shape=[6, 80, 48]).shape == (6, 80, 48)


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match=r"seed \(-1\)"):
        draw_phantom(SMALL, -1)
