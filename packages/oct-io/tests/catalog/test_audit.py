import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from oct_io import audit, hash_participant, open_cache
from oct_io.catalog.participants import STUDY_GROUPS
from oct_io.catalog.releases import compare_with_release
from oct_io.catalog.render import draw_montage, write_png
from oct_io.cli import main

HEADER = (
    "person_id\tmanufacturer\tmanufacturers_model_name\tanatomic_region\tlaterality\t"
    "height\twidth\tnumber_of_frames\tfilepath\n"
)


@pytest.fixture
def tree(tmp_path, scan_file, draw):
    """Two good scans, one cut off in its header, one radial by name, one listed but not there."""
    root = tmp_path / "tree"
    names = {
        "1001": "1001_triton_macula_6x6_octa_oct_l_1.dcm",
        "1002": "1002_triton_macula_6x6_octa_oct_r_2.dcm",
        "1003": "1003_triton_macula_6x6_octa_oct_l_3.dcm",
        "1004": "1004_spectralis_onh_rc_hr_oct_l_4.dcm",
    }
    rows = []
    for number, name in names.items():
        eye = name.split("_oct_")[1][0].upper()
        scan_file(f"tree/s/{name}", volume=draw(participant_id=number, laterality=eye))
        rows.append(
            [number, "Topcon", "Triton", "Macula, 6 x 6", eye, "48", "40", "8", f"/s/{name}"]
        )
    cut = root / "s" / names["1003"]
    cut.write_bytes(cut.read_bytes()[:400])
    rows[1][4] = "L"
    rows.append(["1005", "Topcon", "Triton", "Macula", "L", "48", "40", "8", "/s/none.dcm"])
    (root / "retinal_oct").mkdir()
    lines = ["\t".join(row) + "\n" for row in rows]
    (root / "retinal_oct/manifest.tsv").write_text(HEADER + "".join(lines))
    table = "person_id\tstudy_group\n" + "".join(f"{n}\thealthy\n" for n in (1001, 1002, 1003, 9))
    (root / "participants.tsv").write_text(table)
    return root


def test_an_audit_counts_what_is_there_and_what_falls_out(tree):
    report = audit(tree)
    assert (report.scans, report.usable, report.participants) == (5, 2, 5)
    assert report.counts["device"] == {"topcon_triton": 2}
    assert report.counts["laterality"] == {"L": 1, "R": 1}
    assert report.counts["shape"] == {"8 x 48 x 40": 2}
    assert report.counts["spacing_source"] == {"frame_positions": 2}
    assert report.refused == {"parse": 1, "geometry": 1, "fetch": 1}
    assert "radial" in report.reasons["geometry"]
    assert report.without_scans == [hash_participant("9")]
    assert report.not_in_table == sorted(map(hash_participant, ("1004", "1005")))
    assert report.mismatches == {"laterality": 1}
    assert report.duplicates == 0


def test_equal_names_of_content_are_counted_as_duplicates(tmp_path, scan_file):
    path = scan_file("tree/a.dcm")
    shutil.copy(path, path.with_name("b.dcm"))
    report = audit(tmp_path / "tree")
    assert (report.duplicates, report.without_scans) == (1, None)


def test_a_file_that_is_shorter_than_its_voxels_is_not_usable(tmp_path, scan_file):
    whole, cut = (scan_file(f"{name}.dcm") for name in ("whole", "cut"))
    cut.write_bytes(cut.read_bytes()[:15000])
    report = audit(tmp_path)
    assert (report.scans, report.usable) == (2, 1)
    assert report.refused == {"decode": 1}
    assert report.reasons["decode"] == (
        "header promises 15,360 bytes of voxels, the file has 15,000 in all"
    )
    assert whole.stat().st_size > 15360


def test_the_command_audits_without_naming_anyone(tree, capsys):
    assert main(["audit", str(tree)]) == 0
    printed = capsys.readouterr().out
    assert "5 scans, 2 usable" in printed
    for number in range(1001, 1006):
        assert str(number) not in printed


def test_the_command_caches_and_lists_the_quarantine(tree, tmp_path, capsys):
    out = str(tmp_path / "cache")
    arguments = ["cache", str(tree), out, "--window", "tiny", "--jobs", "1"]
    assert main([*arguments, "--max-bad-fraction", "0.7"]) == 0
    assert len(open_cache(out)) == 2
    capsys.readouterr()
    assert main(["quarantine", out]) == 0
    printed = capsys.readouterr().out
    assert "3 refused (" in printed
    assert "1003" not in printed


def test_the_command_lists_scans_with_hashed_participants(tree, capsys):
    assert main(["manifest", str(tree)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[1].split("\t")[0] == hash_participant("1001")


def test_inspecting_a_scan_says_what_it_is_and_not_whose(scan_file, tmp_path, capsys):
    assert main(["inspect", str(scan_file()), "--png", str(tmp_path / "out.png")]) == 0
    printed = capsys.readouterr().out
    for words in ("8 x 48 x 40", "0.25 x 0.004 x 0.05", "topcon_triton", "frame_positions"):
        assert words in printed
    assert "4007" not in printed
    assert "Secret" not in printed
    assert (tmp_path / "out.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "none.dcm"],
        ["audit", "none"],
        ["cache", "none", "out"],
        ["quarantine", "none"],
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_two(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert len(capsys.readouterr().err.strip().splitlines()[-1:]) == 1


def test_the_installed_command_shows_no_traceback(tmp_path):
    code = "import sys; from oct_io.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "inspect", str(tmp_path / "none.dcm")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "no such file" in result.stderr


def read_png(path):
    """The grey image of a PNG that `write_png` wrote."""
    content = path.read_bytes()
    columns, rows = struct.unpack(">II", content[16:24])
    length = struct.unpack(">I", content[33:37])[0]
    lines = np.frombuffer(zlib.decompress(content[41 : 41 + length]), np.uint8)
    return lines.reshape(rows, columns + 1)[:, 1:]


def test_a_png_holds_the_pixels_that_were_given(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (13, 29), dtype=np.uint8)
    write_png(image, tmp_path / "x.png")
    assert np.array_equal(read_png(tmp_path / "x.png"), image)
    with pytest.raises(ValueError, match="uint8"):
        write_png(image.astype(float), tmp_path / "x.png")


def test_a_montage_shows_bscans_in_true_proportions(draw):
    volume = draw(dtype=np.uint16)
    sheet = draw_montage(volume, tiles=4, across=2, tile_columns=100)
    high = round(100 * 48 * 0.004 / (40 * 0.05))
    assert sheet.shape == (2 * high + 2, 202)
    assert sheet.max() > 200


def test_importing_oct_io_loads_no_torch_no_pydicom_and_nothing_that_draws_phantoms():
    code = (
        "import sys, oct_io; "
        "heavy = ('torch', 'monai', 'scipy', 'pandas', 'sklearn', 'pydicom', 'oct_io.phantom'); "
        "print([name for name in heavy if name in sys.modules]); "
        "print([name for name in oct_io.__all__ if not hasattr(oct_io, name)])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split("\n")[0] == "[]"


def test_the_public_names_are_few_and_sorted():
    import oct_io

    assert len(oct_io.__all__) <= 25
    assert sorted(oct_io.__all__) == sorted(set(oct_io.__all__))


def test_a_tree_that_looks_like_the_third_release_is_compared_with_it(tree, capsys):
    assert main(["audit", str(tree)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    wanted = "third release counts otherwise: participants 2,280 (here 4), scans 56,477 (here 5)"
    assert wanted in said
    assert "healthy 776 (here 4)" in said
    (tree / "participants.tsv").write_text("participant_id\n1001\n")
    assert audit(tree).release == ""


def test_the_third_release_as_counted_differs_in_nothing_and_a_lost_row_shows():
    splits = ["train"] * 1576 + ["val"] * 352 + ["test"] * 352
    groups = [*STUDY_GROUPS[:3], "insulin_controlled"]
    groups = [g for g, n in zip(groups, (776, 560, 686, 258), strict=True) for _ in range(n)]
    ids = [f"{site}{n:03}" for site, count in ((1, 798), (4, 682), (7, 800)) for n in range(count)]
    rows = {
        one: {"person_id": one, "recommended_split": split, "study_group": group}
        for one, split, group in zip(ids, splits, groups, strict=True)
    }
    assert compare_with_release(rows, 56477) == ""
    del rows["1000"]
    assert compare_with_release(rows, 56477).endswith(
        "participants 2,280 (here 2,279), train 1,576 (here 1,575), healthy 776 (here 775), "
        "UW 798 (here 797)"
    )
