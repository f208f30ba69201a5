"""Made-up copies of public data sets: a few tiny scans each, laid out as published."""

import zipfile

import numpy as np
import scipy.io
from PIL import Image

DRAW = np.random.default_rng(0)
NS = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'


def sheet_file(path, rows):
    """A workbook of one sheet: texts are shared, numbers stand in their cells."""
    texts, lines = [], []
    for line, row in enumerate(rows, 1):
        cells = []
        for column, value in zip("ABCDEFGH", row, strict=False):
            if value is None:
                continue
            if isinstance(value, str):
                texts.append(value)
                cells.append(f'<c r="{column}{line}" t="s"><v>{len(texts) - 1}</v></c>')
            else:
                cells.append(f'<c r="{column}{line}"><v>{value}</v></c>')
        lines.append(f'<row r="{line}">{"".join(cells)}</row>')
    shared = "".join(f"<si><t>{one}</t></si>" for one in texts)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/sharedStrings.xml", f"<sst {NS}>{shared}</sst>")
        data = f"<worksheet {NS}><sheetData>{''.join(lines)}</sheetData></worksheet>"
        archive.writestr("xl/worksheets/sheet1.xml", data)
    return path


def plane(rows=40, columns=56):
    """A bright band between darker ones, with noise."""
    level = np.full((rows, columns), 30.0)
    level[rows // 3 : rows // 2] = 170
    return (level + DRAW.integers(0, 25, level.shape)).astype(np.uint8)


def stack(bscans=9, rows=40, columns=30):
    return np.stack([plane(rows, columns) for _ in range(bscans)])


def image(path, **size):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(plane(**size)).save(path)


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def mexico_dme(root):
    lines = ["Name,DME,DR,Size,Format"]
    for person in range(8):
        for eye in ("OD", "OI"):
            name = f"{1200 + person}_{eye}_o_{person}"
            image(root / f"OCT/OCT{person % 2 + 1}/{name}.jpg")
            lines.append(f"{name},{person % 2},{['0', 'NPDR', 'PDR', '-'][person % 4]},8x8,jpg")
    text(root / "OCT.csv", "\n".join(lines))


def kermany(root):
    for part, people in (("train", range(1, 9)), ("test", range(8, 12))):
        for person in people:
            kind = ("CNV", "DME", "DRUSEN", "NORMAL")[person % 4]
            for number in (1, 2):
                image(root / f"OCT2017/{part}/{kind}/{kind}-{1000 + person}-{number}.jpeg")


def octdl(root):
    head = "file_name,disease,subcategory,condition,patient_id,eye,sex,year,image_width"
    lines = [head]
    for person in range(8):
        kind = ("AMD", "NO")[person % 2]
        for number in (1, 2):
            name = f"{kind.lower()}_{person}_{number}"
            image(root / f"OCTDL/{kind}/{name}.jpg")
            lines.append(f"{name},{kind},,drusen,{person + 1},OD,F,60,56")
    text(root / "OCTDL_labels.csv", "\n".join(lines))


def oct5k(root):
    for person in range(1, 9):
        kind = ("AMD", "Normal")[person % 2]
        below = f"{kind} Part1/{kind} ({person}).E2E/2- 25- 2017 9- 10- 42 PM/Image"
        for number in (1, 2):
            image(root / f"Images/Images_Manual/{below} {number}.png")
            image(root / f"Masks/Masks_Manual/Grading_1/{below} {number}.png")


def olives(root):
    path = "Path (Trial/Arm/Folder/Visit/Eye/Image Name)"
    lines = [f"{path},DRT/ME,Fluid (IRF),Eye_ID,BCVA,CST,Patient_ID"]
    for person in range(8):
        where = (
            f"Prime_FULL/01-00{person}/W0/OD"
            if person % 2
            else f"TREX DME/GILA/02{person}GOD/V1/OD"
        )
        ending = "png" if person % 2 else "tif"
        image(root / where / f"fundus_OD.{ending}")
        for number in (1, 2):
            image(root / where / f"{number}.{ending}")
            lines.append(
                f"/{where}/{number}.{ending},{person % 2},{number % 2}.0,9,80,300,{person}"
            )
    image(root / "TREX DME/GILA/020GOS/V1/OS/3.tif")
    text(root / "labels/ml_centric_labels/Biomarker_Clinical_Data_Images.csv", "\n".join(lines))


def octa500(root):
    numbers = {"6": (10001, 10002, 10201, 10202), "3": (10301, 10451)}
    for field, people in numbers.items():
        rows = [["ID", "Eye", "Disease"]]
        for number in people:
            rows.append([number, "OD", "AMD" if number % 2 else "NORMAL"])
            for bscan in range(1, 10):
                image(root / f"OCTA_{field}mm/OCT/{number}/{bscan}.bmp")
        image(root / f"OCTA_{field}mm/Projection Maps/OCTA(FULL)/{people[0]}.bmp")
        sheet_file(root / f"OCTA_{field}mm/Text labels.xlsx", rows)


def fairvision(root):
    lines = ["filename,age,gender,race,glaucoma,use"]
    for number in range(1, 9):
        part = "Training" if number < 6 else "Test"
        folder = root / "FairVision" / "Glaucoma" / part
        folder.mkdir(parents=True, exist_ok=True)
        kind = "yes" if number % 2 else "no"
        np.savez(
            folder / f"data_{number:05}.npz", oct_bscans=stack(), slo_fundus=plane(), glaucoma=1
        )
        lines.append(f"data_{number:05}.npz,60,female,white,{kind},{part.lower()}")
    text(root / "FairVision/Glaucoma/ReadMe/data_summary_glaucoma.csv", "\n".join(lines))


def retouch(root):
    for vendor in ("Cirrus", "Spectralis", "Topcon"):
        for part, name in (("Training", "TRAIN"), ("Test", "TEST")):
            number = ("Cirrus", "Spectralis", "Topcon").index(vendor) + 1
            folder = root / f"RETOUCH-{part}Set-{vendor}" / f"{name}00{number}"
            folder.mkdir(parents=True)
            voxels = stack().astype("<u2" if vendor == "Spectralis" else "u1")
            write_mhd(folder, "oct", voxels)
            if part == "Training":
                mask = np.zeros(voxels.shape, "u1")
                mask[4, 15:18, 10:20] = number
                write_mhd(folder, "reference", mask)


def write_mhd(folder, name, voxels):
    z, y, x = voxels.shape
    kind = "MET_USHORT" if voxels.itemsize == 2 else "MET_UCHAR"
    text(
        folder / f"{name}.mhd",
        f"ObjectType = Image\nNDims = 3\nDimSize = {x} {y} {z}\nElementType = {kind}\n"
        f"ElementSpacing = 0.2 0.04 0.5\nElementDataFile = {name}.raw\n",
    )
    (folder / f"{name}.raw").write_bytes(voxels.tobytes())


def maetschke(root):
    root.mkdir()
    for person in range(8):
        kind = ("POAG", "Normal")[person % 2]
        for eye in ("OD", "OS"):
            path = root / f"{kind}-00{person}-2010-01-0{person + 1}-{eye}.npy"
            np.save(path, stack(16, 128, 16))


def duke_dme(root):
    folder = root / "2015_BOE_Chiu"
    folder.mkdir(parents=True)
    for number in range(1, 5):
        images = stack().transpose(1, 2, 0).astype(float)
        fluid = np.full(images.shape, np.nan)
        path = folder / f"Subject_{number:02}.mat"
        scipy.io.savemat(path, {"images": images, "manualFluid1": fluid}, do_compression=True)


def duke_amd(root):
    for group, where in (("AMD", "AMD1"), ("Control", "Control1")):
        (root / where).mkdir(parents=True)
        for number in range(1001, 1005):
            name = f"Farsiu_Ophthalmology_2013_{group}_Subject_{number}.mat"
            images = stack().transpose(1, 2, 0)
            maps = np.zeros((9, 30, 3))
            scipy.io.savemat(root / where / name, {"images": images, "layerMaps": maps, "Age": 7})


LAYOUTS = {
    one.__name__: one
    for one in (
        *(mexico_dme, duke_dme, duke_amd, kermany, octdl, oct5k, octa500, olives, fairvision),
        *(retouch, maetschke),
    )
}
