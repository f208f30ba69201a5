"""`uv run apps/finetune predict=FOLDER model=DIR`: new scans scored by a finished model."""

import hashlib
import json
import re
import shutil
from collections import Counter
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import oct_io
import oct_vjepa
import oct_xla
import pyarrow as pa
from oct_io.bscans import list_bscans
from oct_io.catalog.manifest import list_scans
from oct_io.quarantine import TooManyBadError
from oct_io.records.record import NOBODY
from oct_io.space.windows import find_window
from oct_launch import Launch, Mistake, Stages, check_positions, mistakes, print_table, refuse_url
from oct_vjepa.finished.about import About
from oct_vjepa.finished.model import Model
from oct_vjepa.saving import write_whole

from oct_judge.finished.located import MAPS, locate_rows
from oct_judge.finished.scored import (
    NOT_SCORED,
    PARTS,
    participants_of,
    read_parts,
    score_parts,
    score_rows,
    with_refused,
    write_tables,
)
from oct_judge.masks.dicom import write_dicom_masks
from oct_judge.masks.drawn import MASKS, draw_rows, mask_path
from oct_judge.question import FinetuneConfig

UNREAD = ("weights", "mode", "task", "evaluation", "join", "seeds", "test_split", "run_dir")
"""Settings of an evaluation; a finished model has them."""
ABOUT = "predictions.json"


def predict_folder(config: FinetuneConfig, launch: Launch) -> int:
    """Score the scans in `config.predict` with the model in `config.model`; returns the exit code.

    Raises:
        Mistake: settings that the model has its own of, no scan that can be scored, or a folder of
            predictions of something else.
        WeightsError: no finished model there.
    """
    for name in UNREAD:
        launch.refuse_unread(name, "predict= takes it from the model")
    launch.refuse_unread("data.flags", "the column scan_flags says which scans have which")
    refuse_url("out", config.out)
    refuse_url("model", config.model)
    with mistakes(ValueError):
        runtime = config.runtime.pick()
    model = oct_vjepa.load_model(config.model, device=runtime.device)
    if not model.about.draws:
        launch.refuse_unread("segment.dicom", f"the model in {config.model} draws no masks")
    out = place_of(config)
    data = scans_of(config, launch, model.about, out)
    claim(out, config, model)
    with Stages() as stages:
        volumes, scored = score_all(config, model, data, out, runtime, stages)
        if config.segment.dicom:
            files = unmarked(out, scored)
            write_dicom_masks(volumes, model.about.names, data, files, stages)
    paths = paths_of(data) if config.predict_paths else None
    scans = with_refused(scored, volumes.quarantined, paths)
    write_tables(out, "predictions", scans)
    answers = not (model.about.draws or model.about.locates)
    people = participants_of(model, scored) if answers else None
    if people is not None:
        write_tables(out, "participants", people)
    shutil.rmtree(out / PARTS)
    tell(model, scans, people, out)
    return 0


def score_all(
    config: FinetuneConfig,
    model: Model,
    data: oct_io.SourceConfig,
    out: Path,
    runtime: oct_xla.Runtime,
    stages: Stages,
) -> tuple[oct_io.CachedVolumes, pa.Table]:
    """The scans as volumes, and a row for each; masks are written on the way.

    Raises:
        Mistake: none can be used, or positions in millimetres and scans without.
    """
    source = open_scans(data, stages)
    for remark in source.remarks:
        stages.say(remark)
    volumes = source.volumes
    with mistakes(ValueError):
        unit = model.members[0].encoder.config.position_unit
        check_positions(unit, volumes.shape, volumes.spacings)
    stages("scoring scans", 0, len(volumes))
    rows = score_rows
    if model.about.draws:
        rows = partial(draw_rows, out)
    elif model.about.locates:
        rows = partial(locate_rows, out)
    with runtime.autocast():
        for done in score_parts(model, volumes, out, batch_size=config.batch_size, rows=rows):
            stages("scoring scans", done, len(volumes))
    return volumes, read_parts(out)


def unmarked(out: Path, scored: pa.Table) -> dict[int, Path]:
    """Row to the file of its mask, of scans without a flag."""
    pairs = zip(scored.column("scan").to_pylist(), scored.column("flags").to_pylist(), strict=True)
    return {row: mask_path(out, key) for row, (key, flags) in enumerate(pairs) if not flags}


def place_of(config: FinetuneConfig) -> Path:
    """Folder of the predictions."""
    if config.out:
        return Path(config.out)
    name = re.sub(r"[^\w.-]+", "-", config.predict.rstrip("/").rpartition("/")[2]) or "scans"
    return Path(config.model).resolve().parent / f"predictions-{name}"


def scans_of(
    config: FinetuneConfig, launch: Launch, about: About, out: Path
) -> oct_io.SourceConfig:
    """Where the scans lie, opened with the model's window; what else was set of `data` holds.

    Raises:
        Mistake: a window, kind, mirroring or root that contradicts the model or `predict`, or a
            window that this version of oct-io knows otherwise.
    """
    given, data = {one.lstrip("+").partition("=")[0] for one in launch.given}, config.data
    wanted = dict(about.window)
    kind = str(wanted.pop("kind", "oct"))
    name, mirror = str(wanted["name"]), bool(wanted["mirror_left"])
    flat = bool(wanted.get("flattened"))
    for key, own, theirs in (
        ("data.window", data.window, name),
        ("data.mirror_left", data.mirror_left, mirror),
        ("data.flatten", data.flatten, flat),
        ("data.kind", data.kind, kind),
        ("data.root", data.root, config.predict),
    ):
        if key in given and own != theirs:
            what = "predict=" if key == "data.root" else "the model's"
            raise Mistake(f"{key} ({own}) is not {what} ({theirs}); leave it out")
    try:
        known = asdict(replace(find_window(name), mirror_left=mirror, flattened=flat))
    except ValueError as error:
        raise Mistake(f"the model's window {error}") from error
    if json.loads(json.dumps(known)) != wanted:
        raise Mistake(
            f"the model's window {name} is another than this version's: {wanted}; take the version "
            "of oct-io that made it"
        )
    return replace(
        data,
        root=config.predict,
        window=name,
        kind=kind,
        mirror_left=mirror,
        flatten=flat,
        cache=data.cache if "data.cache" in given else str(out / "cache"),
        phantom=None,
        labels="",
        label_concepts="",
        split="",
        excluded_splits=[],
        flags=[],
        annotations=[],
        mixed_releases=True,
        max_bad_fraction=data.max_bad_fraction if "data.max_bad_fraction" in given else 1.0,
    )


def claim(out: Path, config: FinetuneConfig, model: Model) -> None:
    """Make the folder of the predictions, or take it up if it is of the same model and scans.

    Raises:
        Mistake: it is of others, or a file.
    """
    root = hashlib.sha256(config.predict.rstrip("/").encode()).hexdigest()[:16]
    about = {"model": model.fingerprint, "scans_at": root, "made_up_data": model.about.made_up}
    path = out / ABOUT
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) == about:
            return
        if any((out / name).exists() for name in ("predictions.parquet", PARTS)):
            raise Mistake(f"{out}: holds predictions of other scans or another model; give out=DIR")
    else:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Mistake(f"out ({out}) cannot be made: {error.strerror}") from error
        if any(out.iterdir()):
            raise Mistake(f"out ({out}) is not empty and holds no predictions; give another place")
    write_whole(path, lambda draft: draft.write_text(json.dumps(about, indent=1) + "\n"))


def open_scans(data: oct_io.SourceConfig, stages: Stages) -> oct_io.Source:
    """The scans as volumes of the model's window.

    Raises:
        Mistake: none can be used.
    """
    try:
        return oct_io.open_source(data, stages)
    except TooManyBadError as error:
        text = str(error).partition(", above the limit")
        first = text[2].partition("; the first: ")[2]
        raise Mistake(f"no prediction: {text[0]}; the first: {first}") from error


def paths_of(data: oct_io.SourceConfig) -> dict[str, str]:
    """Hash of each scan to its path below the root."""
    if data.bscans is not None:
        records = list_bscans(data.root, data.bscans).records
    else:
        manifest = data.manifest or None
        listing = list_scans(
            data.root, manifest=manifest, cache=data.cache, jobs=data.jobs, kind=data.scan_kind
        )
        records = listing.records
    return {
        one.key: f"{one.path} {one.member}".strip() if one.member else one.path for one in records
    }


def tell(model: Model, scans: pa.Table, people: pa.Table | None, out: Path) -> None:
    """Say what became of the scans, in a table; masks and maps have no rows of participants."""
    counts = Counter(
        flag for row in scans.column("flags").to_pylist() for flag in (row.split() or [""])
    )
    rows = [["without a mark", str(counts.pop("", 0))]]
    refused = counts.pop(NOT_SCORED, 0)
    rows += [[f"marked: {name}", str(count)] for name, count in counts.most_common()]
    rows += [["not scored", str(refused)]] if refused else []
    rows += [["participants", str(len(people))]] if people is not None else []
    print_table(["scans", "number"], rows)
    if model.about.made_up:
        print("The model was fitted on made-up retinas: its answers mean nothing.")
    pairs = zip(*(scans.column(name).to_pylist() for name in ("participant", "stage")), strict=True)
    if people is not None and (nobody := list(pairs).count((NOBODY, ""))):
        print(
            f"{nobody:,} scans do not say whose they are: each stands by itself in participants.csv"
        )
    also = f"participants: {out / 'participants.csv'}"
    if people is None:
        also = f"maps: {out / MAPS}" if model.about.locates else f"masks: {out / MASKS}"
    print(f"predictions: {out / 'predictions.csv'}, {also}")
