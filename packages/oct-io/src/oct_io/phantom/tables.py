"""Participants of a phantom tree, and the two tables that describe it."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oct_io.dicom.writer import maker_of
from oct_io.phantom.grid import stream
from oct_io.volume import Spacing

SITES = {"1": "UW", "4": "UCSD", "7": "UAB"}
"""First digit of an id -> clinical site, as in AI-READI."""

STUDY_GROUPS = (
    "healthy",
    "pre_diabetes_lifestyle_controlled",
    "oral_medication_and_or_non_insulin_injectable_medication_controlled",
    "insulin_dependent",
)
STUDY_GROUP_SHARES = (0.35, 0.23, 0.30, 0.12)
"""About those of AI-READI's second release: 372, 242, 323 and 130 of 1067."""

SPLITS = ("train", "val", "test")
LESIONS = ("fluid", "drusen", "thin")

PARTICIPANT_COLUMNS = (
    "clinical_site",
    "study_group",
    "age",
    "study_visit_date",
    "recommended_split",
    "cardiac_ecg",
    "clinical_data",
    "environment",
    "retinal_flio",
    "retinal_oct",
    "retinal_octa",
    "retinal_photography",
    "wearable_activity_monitor",
    "wearable_blood_glucose",
    *LESIONS,
)
"""Of participants.tsv, after the id; AI-READI's, then the three lesions. `history` has the rest."""


@dataclass(frozen=True, slots=True)
class Person:
    """One made-up participant; both eyes have the same lesions."""

    id: str
    seed: int
    age: int
    study_group: int
    split: str
    fluid: bool
    drusen: bool
    thin: bool
    arranged: tuple[str, ...] = ()  # labels of `arrangements` that hold


def draw_people(
    count: int, *, seed: int, prevalence: float, split_fractions: tuple[float, ...]
) -> list[Person]:
    """Draw participants whose lesions, group, site and age are independent of one another."""
    rng = stream(seed, "people")
    sites = rng.permutation([list(SITES)[i % len(SITES)] for i in range(count)])
    sick = {name: rng.permutation(np.arange(count) < round(prevalence * count)) for name in LESIONS}
    edges = np.cumsum(STUDY_GROUP_SHARES)[:-1] * count
    groups = rng.permutation(np.searchsorted(edges, np.arange(count), side="right"))
    ages = rng.integers(40, 85, count)
    strata = np.stack([groups, *(sick[name] for name in LESIONS)])
    splits = _split(strata, split_fractions, rng)
    seen = dict.fromkeys(SITES, 0)
    people = []
    for i in range(count):
        site = str(sites[i])
        seen[site] += 1
        people.append(
            Person(
                id=f"{site}{seen[site]:03d}",
                seed=int(stream(seed, "person", i).integers(2**62)),
                age=int(ages[i]),
                study_group=int(groups[i]),
                split=splits[i],
                fluid=bool(sick["fluid"][i]),
                drusen=bool(sick["drusen"][i]),
                thin=bool(sick["thin"][i]),
            )
        )
    return people


def _split(
    strata: NDArray[np.int64], fractions: tuple[float, ...], rng: np.random.Generator
) -> list[str]:
    """Walk through people sorted by stratum, each time serving the split most in arrears."""
    count = strata.shape[1]
    order = np.lexsort([rng.random(count), *strata])
    served = np.zeros(len(SPLITS))
    names = [""] * count
    for turn, i in enumerate(order, start=1):
        split = int((turn * np.asarray(fractions) - served).argmax())
        served[split] += 1
        names[i] = SPLITS[split]
    return names


def manifest_row(
    *,
    device: str,
    laterality: str,
    region: str,
    shape: tuple[int, int, int],
    spacing: Spacing | None,
    uids: tuple[str, str],
    path: str,
) -> dict[str, str]:
    """One line of retinal_oct/manifest.tsv without the id; names and order are AI-READI's.

    Args:
        device: name in oct_io.
        laterality: R or L.
        region: in AI-READI's words.
        shape: B-scans, rows, columns.
        spacing: millimetres between voxel centres; None if each frame has its own, as in the radial
            scans of Spectralis.
        uids: SOP Instance UIDs of the scan and of its localizer.
        path: below the root of the tree, with forward slashes.
    """
    manufacturer, model = maker_of(device)
    frames, rows, columns = shape
    values = {
        "manufacturer": manufacturer.removesuffix(" Engineering"),  # AI-READI writes Heidelberg
        "manufacturers_model_name": model,
        "anatomic_region": region,
        "imaging": "OCT",
        "laterality": laterality,
        "height": str(rows),
        "width": str(columns),
        "number_of_frames": str(frames),
        "pixel_spacing": "Varies by frame",
        "slice_thickness": "Not reported",
        "sop_instance_uid": uids[0],
        "filepath": f"/{path}",  # with the leading slash that AI-READI writes
        "reference_instance_uid": uids[1],
        "reference_filepath": "Unknown",  # as AI-READI has it where the photograph is missing
    }
    if spacing is not None:
        values["pixel_spacing"] = f"[{spacing.row:.7g}, {spacing.column:.7g}]"
        values["slice_thickness"] = f"{spacing.bscan:.7g}"
    return values


def participant_row(person: Person, arrangements: Sequence[str] = ()) -> dict[str, str]:
    """One line of participants.tsv without the id, with a column for each of `arrangements`."""
    row = dict.fromkeys(PARTICIPANT_COLUMNS, "FALSE")  # no modality but retinal_oct
    return row | {
        "clinical_site": SITES[person.id[0]],
        "study_group": STUDY_GROUPS[person.study_group],
        "age": str(person.age),
        "study_visit_date": "2000-01-01",
        "recommended_split": person.split,
        "retinal_oct": "TRUE",
        **{name: str(getattr(person, name)).upper() for name in LESIONS},
        **{name: str(name in person.arranged).upper() for name in arrangements},
    }


def write_table(
    path: Path, rows: Sequence[tuple[str, dict[str, str]]], manifest_version: int
) -> None:
    """Write `(participant id, row)` pairs as tab-separated values, the id first.

    The first row says what the columns are and how they are ordered.
    """
    id_column = "person_id" if manifest_version == 3 else "participant_id"
    columns = tuple(rows[0][1])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow((id_column, *columns))
        writer.writerows((key, *(row[name] for name in columns)) for key, row in rows)
