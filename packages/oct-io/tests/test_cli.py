"""The command as a user meets it: brackets in a header, Ctrl-C, what is known of a scan."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from oct_io.cli import main
from oct_io.dicom.layout import FileStyle
from oct_io.dicom.writer import write_dicom

CODE = "import sys; from oct_io.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize("command", ["inspect", "audit"])
def test_brackets_in_a_header_are_printed_as_they_stand(scan_file, capsys, command):
    def name_region(dataset):
        shared = dataset.SharedFunctionalGroupsSequence[0]
        region = shared.FrameAnatomySequence[0].AnatomicRegionSequence[0]
        region.CodeMeaning, region.CodeValue = "Macula [/bold] :eye:", "none"
        dataset.SeriesDescription = ""

    path = scan_file(edit=name_region)
    assert main([command, str(path if command == "inspect" else path.parent)]) == 0
    assert "Macula [/bold] :eye:" in capsys.readouterr().out


def test_an_array_that_is_a_raster_is_called_one(tmp_path, draw, capsys):
    np.savez(tmp_path / "scan.npz", voxels=draw().voxels)
    (tmp_path / "scan.json").write_text('{"spacing_mm": [0.25, 0.004, 0.05]}')
    assert main(["inspect", str(tmp_path / "scan.npz")]) == 0
    printed = capsys.readouterr().out
    assert "raster" in printed
    assert "not a volume" not in printed


def test_what_is_known_of_the_spacing_of_a_line_is_said(tmp_path, draw, capsys):
    np.savez(tmp_path / "scan.npz", voxels=draw().voxels)
    fields = '{"spacing_mm": [0.25, 0.004, 0.05], "pattern": "circle"}'
    (tmp_path / "scan.json").write_text(fields)
    assert main(["inspect", str(tmp_path / "scan.npz")]) == 0
    printed = capsys.readouterr().out
    assert "circle: its sidecar calls it a circle scan" in printed
    assert "unknown between B-scans, 0.004 x 0.05 within them" in printed


@pytest.mark.parametrize("wait_s", [0.6, 2.5])
def test_ctrl_c_ends_with_one_line_and_its_own_exit_code(tmp_path, draw, wait_s):
    root = tmp_path / "tree"
    root.mkdir()
    write_dicom(
        draw(shape=(24, 496, 384)), root / "0.dcm", uid_seed="x", style=FileStyle(codec="jpeg2000")
    )
    for number in range(1, 80):
        shutil.copy(root / "0.dcm", root / f"{number}.dcm")
    command = [sys.executable, "-c", CODE, "cache", str(root), str(tmp_path / "c"), "--jobs", "2"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    building = tmp_path / ".c.building"
    while process.poll() is None and not building.exists():
        time.sleep(0.02)
    time.sleep(wait_s)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the workers too
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    assert printed.strip().splitlines()[-1] == "oct-io: interrupted"
    assert not (tmp_path / "c").exists()
