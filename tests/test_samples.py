"""Pretraining on real scans; skipped, saying so, where OCT_SAMPLES names none."""

import json

import numpy as np
import oct_io
import pytest

pytestmark = pytest.mark.slow

SPACING = (0.030, 0.003872, 0.011182)  # mm, as the scan's own export states it
SHORT = ("loop.steps=4", "loop.evaluate_every=2", "feed.batch_size=2", "watched_volumes=2")


def pretrain(call_app, root, run_dir):
    cache = run_dir.with_name(f"{run_dir.name}-cache")
    outcome = call_app(
        "pretrain", "data=folder", f"data.root={root}", f"data.cache={cache}",
        f"run_dir={run_dir}", "loop.log_every=1", *SHORT,
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(np.isfinite(row["loss"]) for row in rows)
    facts = json.loads((run_dir / "provenance.json").read_text())
    assert facts["made_up_data"] is False
    page = (run_dir / "report.html").read_text()
    assert "made up" not in page
    assert str(root) not in json.dumps(facts)
    return facts


def test_a_folder_of_real_scans_in_five_encodings_is_pretrained_on(samples, place, call_app):
    root = samples / "derived_opt_dicom"
    facts = pretrain(call_app, root, place / "folder")
    assert facts["volumes"] == len(list(root.glob("*.dcm")))
    assert facts["scans_refused"] == 0


def test_a_real_spectralis_volume_survives_our_writer_and_is_pretrained_on(
    samples, place, call_app
):
    archive = samples / "spectralis_medvisbonn" / "volume_145x496x512_u8.npz"
    with np.load(archive) as file:
        voxels = next(file[name] for name in file.files if file[name].ndim == 3)
    assert voxels.shape == (145, 496, 512)
    volume = oct_io.OctVolume(
        voxels, oct_io.Spacing(*SPACING), "given", laterality="R", device="heidelberg_spectralis",
        protocol="spectralis_ppol_mac_hr_oct", region="Macula", participant_id="real-1",
    )  # fmt: skip
    root = place / "spectralis"
    root.mkdir()
    oct_io.write_dicom(volume, root / "scan.dcm", uid_seed="spectralis")
    found = oct_io.read_volume(root / "scan.dcm")
    assert np.array_equal(found.voxels, voxels)
    spacing = (found.spacing.bscan, found.spacing.row, found.spacing.column)
    assert spacing == pytest.approx(SPACING, abs=1e-6)
    facts = pretrain(call_app, root, place / "spectralis-run")
    assert facts["volumes"] == 1
