"""What a tree of phantoms holds: the settings of `write_phantom_tree`, each checked."""

from dataclasses import dataclass

from oct_io.dicom.encoding import check_codec
from oct_io.phantom.arrangements import ORDERS
from oct_io.phantom.drawing import Phantom
from oct_io.phantom.nuisance import LABELS
from oct_io.phantom.scanners import find_device

EYES = (("R", "L"), ("R",), ("L",))


@dataclass(kw_only=True, slots=True)
class PhantomTree:
    """What to write: how many people, seen by what, with which lesions."""

    participants: int = 240
    """240 with both eyes give a quick and steady demonstration."""

    seed: int = 0
    """Another seed, another population."""

    shape: tuple[int, int, int] | None = None
    """B-scans, rows, columns; None takes each device's own, some 12 x 160 x 96."""

    extent_mm: tuple[float, float, float] | None = None
    """Field of view in the same order; None takes each device's own, 6 x 1.1 x 6 mm."""

    split_fractions: tuple[float, float, float] = (0.6, 0.1, 0.3)
    """Shares of train, val and test; stratified by lesions and study group."""

    lesion_prevalence: float = 0.5
    """Share of participants with each lesion; the three are drawn independently."""

    arrangements: tuple[str, ...] = ()
    """Lesions to add that no amount of bright or dark tells, only its order: of `ORDERS` in
    `oct_io.phantom.arrangements`. Each is a column of the label table; healthy eyes get its marks
    as well, laid otherwise. Without any, voxels and tables are as ever."""

    effect: float = 1.0
    """Size of lesions and of what marks a study group; 0 keeps the labels and draws nothing."""

    devices: tuple[str, ...] = ("phantom_a", "phantom_b", "phantom_c")
    """Scanners that participants are spread over, evenly and independently of the labels; also
    protocols of AI-READI, such as `cirrus_mac_oct`."""

    devices_per_participant: int = 1
    """More than one gives several scans of the same eyes."""

    eyes: tuple[str, ...] = ("R", "L")
    """Which eyes are scanned. One alone makes every volume an independent case; the mean of two
    halves what is noise in one."""

    visits: int = 1
    """Scans of each eye one after the other: the same retina with speckle and display of its own,
    and what `progression` has changed. The manifest then has a column `visit`, from 1."""

    scale: float = 1.0
    """Share of each device's B-scans, rows and columns over the same field; the protocols of
    AI-READI have 20 to 260 million voxels at 1."""

    bits: int = 8
    """8 or 16 a voxel."""

    codecs: tuple[str, ...] = ("native",)
    """Of `oct_io.dicom.encoding.CODECS`; scans take turns, and with them basic, empty and extended
    offset tables."""

    odd_files: bool = False
    """Scans take turns in leaving out positions, localizer lines or SliceThickness, in storing
    frames in another order, and in repeating spacing per frame."""

    corrupt: bool = False
    """Spoil one scan with each of `faults.FAULTS`; `expected.tsv` says which and what follows."""

    odd_manifest: bool = False
    """Nest the tree, and put the cells and paths of `faults.ODD_CELLS` and `ODD_PATHS` into the
    manifest; `expected.tsv` says what follows."""

    null: bool = False
    """Draw each participant with the lesions of another, so that no label can be learnt."""

    confounded: str = "fluid"
    """Label that device and site are tied to: a lesion, or `study_group`."""

    device_confounding: float = 0.0
    """Share of participants whose device is decided by that label: a shortcut to learn."""

    site_confounding: float = 0.0
    """Share of participants whose clinical site is."""

    site_gain_db: float = 0.0
    """How much darker the first site displays its scans than the second, and the third brighter;
    without it a site cannot be seen."""

    gain_sd_db: float = 0.0
    """How much brighter or darker one scan is displayed than the next, whatever it shows."""

    roll_off_sd_db_per_mm: float = 0.0
    """How much the loss of light with depth differs from scan to scan beside that of devices."""

    annotations: bool = False
    """Write the truth beside each scan, `..._mask.dcm` with its fluid as a DICOM segmentation and
    `..._layers.npz` with its layer boundaries, and name both in the manifest."""

    manifest_version: int = 2
    """1 and 2 name the id `participant_id`, 3 names it `person_id`, as AI-READI's releases do."""

    jobs: int = 0
    """Processes that draw; 0 takes one per CPU, 1 draws in this process."""

    def __post_init__(self) -> None:
        self.devices, self.eyes = tuple(self.devices), tuple(self.eyes)
        _require(self.eyes in EYES, "eyes", self.eyes, f"one of {EYES}")
        train, val, test = self.split_fractions
        self.split_fractions = (train, val, test)
        _require(1 <= self.participants <= 2997, "participants", self.participants, "1 to 2997")
        _require(self.seed >= 0, "seed", self.seed, "zero or more")
        fractions = self.split_fractions
        sound = min(fractions) >= 0 and abs(sum(fractions) - 1) < 1e-6
        _require(sound, "split_fractions", fractions, "three shares that add up to 1")
        prevalence = self.lesion_prevalence
        _require(0 <= prevalence <= 1, "lesion_prevalence", prevalence, "between 0 and 1")
        self.arrangements = chosen = tuple(self.arrangements)
        known = set(chosen) <= set(ORDERS) and len(set(chosen)) == len(chosen)
        _require(known, "arrangements", chosen, f"different names of {ORDERS}")
        distinct = 0 < len(self.devices) == len(set(self.devices))
        _require(distinct, "devices", self.devices, "one or more different names")
        per = self.devices_per_participant
        _require(1 <= per <= len(self.devices), "devices_per_participant", per, "1 to len(devices)")
        _require(self.visits >= 1, "visits", self.visits, "one or more")
        version = self.manifest_version
        _require(version in (1, 2, 3), "manifest_version", version, "1, 2 or 3")
        _require(self.jobs >= 0, "jobs", self.jobs, "zero or more")
        self._check_files()
        _require(self.confounded in LABELS, "confounded", self.confounded, f"one of {LABELS}")
        for name in ("gain_sd_db", "roll_off_sd_db_per_mm"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "zero or more")
        for name in ("device_confounding", "site_confounding"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "between 0 and 1")
        largest = self.site_confounding == 0 or self.participants <= 999
        _require(largest, "participants", self.participants, "at most 999 with site_confounding")
        for device in self.devices:
            find_device(device)
        checked = Phantom(
            effect=self.effect,
            shape=self.shape,
            extent_mm=self.extent_mm,
            scale=self.scale,
            gain_db=self.site_gain_db,
            bits=self.bits,
        )
        self.shape, self.extent_mm = checked.shape, checked.extent_mm

    def _check_files(self) -> None:
        self.codecs = tuple(self.codecs)
        _require(len(self.codecs) > 0, "codecs", self.codecs, "one or more names")
        for codec in self.codecs:
            check_codec(codec, self.bits)


def _require(holds: bool, field: str, value: object, rule: str) -> None:
    if not holds:
        raise ValueError(f"phantom_tree.{field} ({value}) must be {rule}")
