"""`mode=segment` from the command line to the last file, and the rivals that answer beside it."""

import json
from dataclasses import replace

import highdicom
import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
import torch
from oct_io import SourceConfig, open_source, read_header
from oct_io.cache.volumes import open_cache
from oct_io.catalog.manifest import list_scans
from oct_io.records.annotations import read_mask
from oct_io.scan.file import ScanFile
from oct_io.space.perturbations import perturb
from oct_judge.board.finish import encoder_of_run
from oct_judge.family import Family
from oct_judge.finished.spoilt_masks import pen_of, redraw
from oct_judge.masks.candidates import Draughtsmen, drawing_folder
from oct_judge.masks.study import open_masks
from oct_judge.question import FinetuneConfig, ProtocolConfig
from oct_vjepa import Encoder, EncoderConfig, load_model
from oct_vjepa.boards.runs import read_run
from oct_vjepa.boards.standings import make_board
from oct_xla import pick_runtime

NETWORK = {
    "input_shape": (8, 64, 64),
    "patch_size": (2, 8, 16),
    "width": 24,
    "depth": 2,
    "heads": 2,
}
PHANTOM = (
    "data.name=masks", "data.phantom.participants=12", "data.phantom.eyes=[R]",
    "data.phantom.annotations=true", "data.phantom.lesion_prevalence=0.8",
    "data.phantom.split_fractions=[0.5,0.0,0.5]", "data.phantom.jobs=1", "data.jobs=1",
)  # fmt: skip
SHORT = (
    "mode=segment", "training.epochs=2", "training.batch_size=4", "training.mode=full",
    "bootstrap=100", "segment.unet=false",
)  # fmt: skip
BY_SPLIT = ProtocolConfig(name="leave_one_out", by="@split", folds=3)
TRIVIAL = ["mean mask", "grey levels"]


@pytest.fixture(scope="module")
def encoder(place):
    torch.manual_seed(0)
    Encoder(EncoderConfig(**NETWORK, input_mean=60.0, input_std=50.0)).save_pretrained(
        place / "masks-encoder"
    )
    return place / "masks-encoder"


@pytest.fixture(scope="module")
def segment(place, encoder, call_app):
    def run(name, *more):
        outcome = call_app(
            "finetune", f"encoder={encoder}", f"data.root={place / 'masks-data'}", *PHANTOM,
            f"data.cache={place / name}-cache", f"run_dir={place / name}", *SHORT, *more,
        )  # fmt: skip
        assert outcome.code == 0, outcome.errors[-2000:]
        return place / name, json.loads((place / name / "results.json").read_text()), outcome

    return run


def check_dicom(place, folder):
    """Every KEY.dcm says of the scan what KEY.npz says of its window, to whoever opens it."""
    root, cached = place / "masks-data", open_cache(place / "masks-cache")
    entries = {entry.key: entry for entry in cached.entries}
    paths = {one.key: root / one.path for one in list_scans(str(root)).records}
    drawn = 0
    for file in sorted((folder / "masks").glob("*.dcm")):
        entry, source = entries[file.stem], pydicom.dcmread(paths[file.stem])
        with np.load(file.with_suffix(".npz")) as kept:
            window, names = kept["mask"], tuple(kept["names"].tolist())
        wanted = at_nearest(window, entry)
        drawn += int(wanted.any())
        seg = highdicom.seg.segread(file)
        assert seg.FrameOfReferenceUID == source.FrameOfReferenceUID
        assert seg.StudyInstanceUID == source.StudyInstanceUID
        (series,) = seg.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == source.SeriesInstanceUID
        (image,) = series.ReferencedInstanceSequence
        assert image.ReferencedSOPInstanceUID == source.SOPInstanceUID
        frames = list(range(1, len(wanted) + 1))
        pixels = seg.get_pixels_by_source_frame(
            source.SOPInstanceUID, frames, combine_segments=True,
            ignore_spatial_locations=True, assert_missing_frames_are_empty=True,
        )  # fmt: skip
        stored = np.argsort(read_header(paths[file.stem]).order)
        assert np.array_equal(pixels, wanted[stored]), "frames as the source stores them"
        ours = read_mask(ScanFile(url=str(file)), ScanFile(url=str(paths[file.stem])), wanted.shape)
        assert np.array_equal(ours.labels, wanted)
        assert ours.names == names == tuple(["background", *segments_of(seg)])
    assert drawn, "at least one mask has a voxel"


def segments_of(seg):
    return [seg.get_segment_description(n).segment_label for n in seg.segment_numbers]


def at_nearest(window, entry):
    """The class of the nearest voxel of the window, for each of the scan; background outside."""
    wanted = np.zeros(entry.source_shape, np.uint8)
    places = []
    for axis in range(3):
        middles = (np.arange(entry.source_shape[axis]) + 0.5) * entry.source_spacing[axis]
        edges = entry.origin_mm[axis] + np.arange(window.shape[axis] + 1) * entry.spacing[axis]
        places.append(np.searchsorted(edges - 1e-9, middles, "right") - 1)
    inside = [np.flatnonzero((p >= 0) & (p < n)) for p, n in zip(places, window.shape, strict=True)]
    taken = [p[i] for p, i in zip(places, inside, strict=True)]
    wanted[np.ix_(*inside)] = window[np.ix_(*taken)]
    return wanted


@pytest.fixture(scope="module")
def masks(segment, place):
    coarse = NETWORK | {"patch_size": (2, 16, 16)}
    Encoder(EncoderConfig(**coarse)).save_pretrained(place / "masks-other")
    more = ("segment.dicom=true", "compare.fractions=[0.6]", "compare.turns=1")
    more += ("compare.perturbed=true", f'compare.encoders=["other={place}/masks-other"]')
    return segment("masks", "data.annotations=[mask]", *more)


@pytest.fixture(scope="module")
def layers(segment):
    more = ("segment.boundaries=[ILM,RPE,BM]", "training.decoder.levels=[0,1]")
    more += ("compare.perturbed=true",)
    return segment("layers", "data.annotations=[layers]", *more)


@pytest.mark.slow
def test_what_was_trained_draws_again_on_spoilt_scans(masks, place):
    folder, document, _ = masks
    found = document["perturbations"]
    assert (found["metric"], found["strengths"]) == ("dice", [0, 1, 2, 3, 4, 5])
    assert list(found["candidates"]) == ["pretrained", "random init", "encoder other"]
    still = ["speckle", "roll_off", "shadow", "defocus", "gain", "missing_bscans"]
    rows = {one["name"]: one["card"]["metrics"]["dice"] for one in document["candidates"]}
    for name, kinds in found["candidates"].items():
        assert list(kinds) == still
        for triples in kinds.values():
            assert triples[0] == rows[name]
            assert len({tuple(one) for one in triples}) > 1
    model, volumes = load_model(folder / "model"), open_cache(place / "masks-cache")
    rows = [list(volumes.ids).index(one.stem) for one in (folder / "masks").glob("*.npz")]
    scores = []
    for row in rows:
        seed = int.from_bytes(volumes.entries.take(np.array([row])).hashes()[0][:4], "big")
        spoilt = perturb(volumes[row], "gain", 5, seed=seed)
        (mask,) = model.draw([spoilt], volumes.spacings[[row]]).masks
        said, true = mask == 1, volumes.mask(row) == 1
        both = said.sum() + true.sum()
        scores.append(2 * (said & true).sum() / both if both else np.nan)
    value, *_ = found["candidates"]["pretrained"]["gain"][5]
    assert value == pytest.approx(np.nanmean(scores))
    page = (folder / "report.html").read_text()
    assert "What spoils it" in page
    assert "speckle, roll-off, a shadow, defocus, gain and missing B-scans, each a" in page


@pytest.mark.slow
def test_what_was_trained_draws_whole_scans_again_as_it_did(encoder, place, tmp_path, layers):
    config = FinetuneConfig(
        mode="segment", data=SourceConfig(
            root=str(place / "masks-data"), cache=str(place / "layers-cache"), window="tiny",
            jobs=1, annotations=["layers"],
        ),
    )  # fmt: skip
    config.segment.boundaries = ["ILM", "RPE", "BM"]
    config.training = replace(config.training, mode="frozen", epochs=1, batch_size=4)
    source = open_source(config.data)
    study, runtime = open_masks(config, source), pick_runtime("cpu")
    family = Family.of_one(Encoder.from_pretrained(encoder))
    cast = Draughtsmen(config=config, study=study, family=family, runtime=runtime, folder=tmp_path)
    for name, ask in cast.trained().items():
        one = ask(study.rounds[0], 0, drawing_folder(tmp_path, name, 0, 0))
        pen = pen_of(cast, name, one, 0)
        again = dict(redraw(cast, one.rows, pen, "gain", 0))
        assert list(again) == one.rows
        assert all(np.array_equal(again[row], one.draw(row)) for row in one.rows), name
    apart = open_masks(replace(config, protocol=BY_SPLIT), source)
    assert [one.name for one in apart.rounds] == ["test", "train"]
    for one in apart.rounds:
        assert set(apart.participants[one.test]) <= source.split.parts[one.name]
    found = layers[1]["perturbations"]["candidates"]["pretrained"]
    assert found["speckle"][0] == layers[1]["candidates"][0]["card"]["metrics"]["dice"]


@pytest.mark.slow
def test_masks_are_drawn_scored_kept_and_shown(masks, place):
    folder, document, outcome = masks
    names = [row["name"] for row in document["candidates"]]
    assert names == ["pretrained", "random init", "encoder other", *TRIVIAL]
    assert document["question"]["names"] == ["background", "IRF"]
    assert encoder_of_run(folder) == document["entry"]["fingerprint"] != ""  # a sweep reads it
    own, *others = document["candidates"]
    assert own["gain"] is None
    for row in others:
        value, low, high = row["gain"]["difference"]
        assert low <= value <= high
        there = [one["card"]["metrics"]["dice"][0] for one in (own, row)]
        assert value == pytest.approx(there[0] - there[1], abs=1e-9)
    assert [row["candidate"] for row in document["efficiency"]] == names
    own, other = document["efficiency"][:2]
    assert own["participants"] == other["participants"] == {"fit": 4, "validation": 2}
    few = own["headline"][0] - other["headline"][0]
    assert other["gain"]["difference"][0] == pytest.approx(few, abs=1e-9)
    masks = sorted((folder / "masks").glob("*.npz"))
    assert len(masks) == 6, "of the test participants, an eye each"
    with np.load(masks[0]) as kept:
        assert kept["mask"].shape == NETWORK["input_shape"]
        assert kept["names"].tolist() == ["background", "IRF"]
        assert np.isfinite(kept["spacing_mm"]).all()
    assert len(list((folder / "masks").glob("*.dcm"))) == 6
    check_dicom(place, folder)
    assert document["sentence"] in outcome.out
    assert (folder / "report.html").read_text().count("<img") >= 4


@pytest.mark.slow
def test_a_leaderboard_of_masks_has_the_numbers_of_their_table(masks):
    folder, document, _ = masks
    board = make_board([read_run(folder)], bootstrap=100)
    assert board.headline == "dice"
    dice = {row["name"]: row["card"]["metrics"]["dice"][0] for row in document["candidates"]}
    dice["masks-encoder"] = dice.pop("pretrained")
    assert {one.entry.name: one.metrics["dice"].value for one in board.standings} == dice


@pytest.mark.slow
def test_the_page_of_masks_says_for_whom_it_works_and_where_the_scans_went(masks):
    folder, document, _ = masks
    flow = document["flow"]
    assert flow["scans_found"] == flow["scans_usable"] == flow["scans_with_answer"] == 12
    parts = {one["part"]: one for one in flow["parts"]}
    assert sum(one["participants"] for one in parts.values()) == 12
    assert 0 < parts["test"]["by_class"]["IRF"] <= parts["test"]["participants"] == 6
    assert document["command"].startswith("uv run apps/finetune ")
    assert "segment.dicom=true" in document["command"]
    assert str(folder.parent) not in document["command"], "where it lay is nobody's business"
    (sex,) = (one for one in document["subgroups"] if one["column"] == "sex")
    assert sum(row["participants"] for row in sex["rows"]) == 6
    assert all("fewer than 10" in row["note"] for row in sex["rows"])
    page = (folder / "report.html").read_text()
    for words in (
        "For whom it works", "Where the scans went", "without a mask", "How to do it again",
        "6 test participants are few", "With fewer masks", document["question"]["fingerprint"],
    ):  # fmt: skip
        assert words in page
    assert "| sex | participants | dice | |" in (folder / "model" / "README.md").read_text()


@pytest.mark.slow
def test_layers_are_drawn_and_their_thickness_is_told_by_sector(layers):
    folder, document, _ = layers
    assert document["question"]["boundaries"] == ["ILM", "RPE", "BM"]
    assert document["question"]["counted"] == ["ILM to RPE", "RPE to BM"]
    metrics = document["candidates"][0]["card"]["metrics"]
    mean = np.mean([metrics[f"boundary_um_{one}"][0] for one in ("ILM", "RPE", "BM")])
    assert metrics["boundary_um"][0] == pytest.approx(mean, rel=0.2)
    central = {kind: metrics[f"etdrs_{kind}_um_central"][0] for kind in ("true", "error")}
    assert 100 < central["true"] < 450, "a retina at its fovea, in micrometres"
    assert 0 <= central["error"] < 500
    assert "Thickness" in (folder / "report.html").read_text()


def drawn_again(folder, name):
    """The finished model's masks of the tested scans, and those that the evaluation left."""
    volumes, model = open_cache(folder.parent / f"{name}-cache"), load_model(folder / "model")
    kept = {file.stem: np.load(file)["mask"] for file in (folder / "masks").glob("*.npz")}
    rows = [row for row, key in enumerate(volumes.ids) if key in kept]
    said = model.draw(volumes.select(rows), volumes.spacings[rows], batch_size=4)
    return model, said, np.stack([kept[volumes.ids[row]] for row in rows])


@pytest.mark.slow
def test_the_finished_model_draws_the_masks_that_were_scored(masks, layers):
    for folder, name in ((masks[0], "masks"), (layers[0], "layers")):
        model, said, wanted = drawn_again(folder, name)
        assert np.array_equal(said.masks, wanted)
        assert model.about.made_up
        card = (folder / "model" / "README.md").read_text()
        assert model.about.results["sentence"] in card
        dice = model.about.results["card"]["metrics"]["dice"]
        assert f"| dice | {dice[0]:.3f} ({dice[1]:.3f} to {dice[2]:.3f}) |" in card
        assert "Any real scan: it knows phantoms only" in card
    assert model.about.band == ("ILM", "BM")
    assert model.about.levels == (0, 1)


@pytest.mark.slow
def test_new_scans_get_masks_measures_and_dicom(masks, place, call_app):
    folder, out = masks[0], place / "masks-drawn"
    outcome = call_app(
        "finetune", f"predict={place / 'masks-data'}", f"model={folder / 'model'}", f"out={out}",
        "data.jobs=1", "segment.dicom=true", "batch_size=5",
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    rows = pq.read_table(out / "predictions.parquet").to_pylist()
    assert len(rows) == 12
    assert not (out / "participants.csv").exists()
    for row in rows:
        with np.load(out / "masks" / f"{row['scan']}.npz") as kept:
            mask, spacing = kept["mask"], kept["spacing_mm"]
        dicom = (out / "masks" / f"{row['scan']}.dcm").exists()
        if row["flags"]:
            assert row["share_IRF"] is row["mm3_IRF"] is None
            assert not dicom
        else:
            assert row["share_IRF"] == (mask == 1).mean()
            assert row["mm3_IRF"] == pytest.approx((mask == 1).sum() * spacing.prod())
            assert dicom
    assert any(not row["flags"] for row in rows)
    head = (out / "predictions.csv").read_text().splitlines()[0]
    assert (
        head
        == "scan,participant,eye,device,share_IRF,mm3_IRF,novelty,flags,scan_flags,stage,reason"
    )


@pytest.mark.slow
def test_thickness_of_new_scans_is_told_by_sector(layers, place, call_app):
    folder, out = layers[0], place / "layers-drawn"
    outcome = call_app(
        "finetune", f"predict={place / 'masks-data'}", f"model={folder / 'model'}", f"out={out}",
        f"data.cache={place / 'layers-drawn-cache'}", "data.jobs=1",
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors
    rows = pq.read_table(out / "predictions.parquet").to_pylist()
    told = [row["etdrs_um_central"] for row in rows if not row["flags"]]
    assert told
    assert all(0 < one < 1100 for one in told)
    metrics = json.loads((folder / "results.json").read_text())["candidates"][0]["card"]["metrics"]
    mean = metrics["etdrs_predicted_um_central"][0]
    assert np.mean(told) == pytest.approx(mean, rel=0.3), "the same eyes and six more"
    assert "share_ILM to RPE" in rows[0]
    assert "share_above ILM" not in rows[0]


@pytest.mark.slow
def test_a_mistake_is_told_in_one_line(place, encoder, call_app):
    outcome = call_app(
        "finetune", f"encoder={encoder}", f"data.root={place / 'masks-data'}", *PHANTOM,
        f"data.cache={place / 'masks'}-cache", f"run_dir={place / 'wrong'}", *SHORT,
        "data.annotations=[mask]", "training.mode=attentive",
    )  # fmt: skip
    assert outcome.code != 0
    assert "training.mode" in outcome.errors


@pytest.mark.drill
def test_networks_from_scratch_attention_and_other_encoders_answer_in_one_table(
    place, encoder, run_app
):
    outcome = run_app(
        "finetune", f"encoder={encoder}", f"data.root={place / 'rivals-data'}",
        f"data.cache={place / 'rivals-cache'}", f"run_dir={place / 'rivals'}",
        "data.phantom.participants=24", "data.phantom.split_fractions=[0.5,0.0,0.5]",
        "data.phantom.eyes=[R,L]", "bootstrap=100", "training.epochs=1",
        "training.batch_size=4", "compare.baselines=[]",
        "compare.networks=[monai_resnet10,monai_densenet121]", "join=attention",
        f'compare.encoders=["again={encoder}"]',
    )  # fmt: skip
    assert outcome.code == 0, outcome.errors[-2000:]
    document = json.loads((place / "rivals" / "results.json").read_text())
    rows = {row["name"]: row["card"]["metrics"]["auroc"] for row in document["candidates"]}
    asked = ["pretrained", "random init"]
    ranks, attention = (
        [f"{one}, {how}" for one in asked] for how in ("grey ranks", "attention over volumes")
    )
    networks = ["network monai_resnet10", "network monai_densenet121"]
    alone = ["pretrained", "majority class", "random init"]
    assert list(rows) == [*alone, *ranks, *attention, "encoder again", *networks]
    assert rows["encoder again"] == rows["pretrained"]
