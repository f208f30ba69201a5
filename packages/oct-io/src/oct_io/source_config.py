"""Where scans lie, and how they become volumes of one shape: what `open_source` is told."""

from dataclasses import dataclass, field, replace

from oct_io.bscans import BscanConfig
from oct_io.catalog.selection import Selection
from oct_io.datasets.registry import find_recipe
from oct_io.phantom.specification import PhantomTree
from oct_io.records.opening import check_annotations
from oct_io.scan.flags import check_flag_names
from oct_io.space.windows import Window, find_window
from oct_io.storage.buckets import StorageConfig
from oct_io.volume import KINDS, Kind


@dataclass(kw_only=True, slots=True)
class SourceConfig:
    """Where scans lie, and how they become volumes of one shape."""

    name: str = "scans"
    """Short name of the data set; runs are named after it."""

    root: str = ""
    """Folder or URL of a tree like AI-READI's, or of any folder of scans."""

    manifest: str = ""
    """Table of the scans to take, such as `oct-io manifest` writes, anywhere; empty: the one of the
    tree, or all scans that are found below the root."""

    window: str = "macula6"
    """What is cut out of each scan and how finely: a name in `oct_io.WINDOWS`; or voxels, to which
    all of each scan is brought: 96x256 for B-scans, 8x64x64 for volumes. 96x256-padded keeps the
    proportions of images."""

    kind: str = "oct"
    """What the scans show: oct, or volume for anything else in three dimensions, such as crops of
    MR images or shapes. Rules of what a retina looks like then do not hold: voxels may have any
    size or none, most of a volume may be empty, grey levels are each volume's own, nothing is
    flagged, and each volume is a participant of its own unless volume.json or a manifest says
    whose it is. `kind` in a volume.json says so of the scans below it. Not of DICOM."""

    mirror_left: bool = False
    """Mirror left eyes, so that nasal is on one side for all; depth stays."""

    flatten: bool = False
    """Move each A-scan along the beam so that the retina's inner surface lies in one row: tilt,
    curvature and the eye's place in the scan are gone, and what is left is tissue by its depth. A
    window in voxels then takes half of the depth. Readouts by depth (pool `profile`) want it."""

    devices: list[str] = field(default_factory=list)
    """Scanners to take, by normalised name; empty takes all. One is a single domain, several are a
    multi-domain data set."""

    regions: list[str] = field(default_factory=list)
    """Anatomic regions to take, in the manifest's words; empty takes all, and mixes anatomies."""

    lateralities: list[str] = field(default_factory=list)
    """Eyes to take, R or L; empty takes both."""

    flags: list[str] = field(default_factory=list)
    """Flags that a scan must not have: of motion, lost_bytes, saturation, low_signal,
    clipped_retina, blink, mirrored_depth, direction. Empty leaves none out; what suggests a fault
    is no proof of it, and who leaves out the poor scans of ill eyes changes what is learned."""

    annotations: list[str] = field(default_factory=list)
    """What is cached along with the voxels of scans that have it: `layers` (rows of their layer
    boundaries), `mask` (classes of their voxels). Empty takes neither, and costs nothing."""

    cache: str = ""
    """Local folder for the resampled volumes; made once, used by every later run. Or the URL of a
    cache that `oct-io publish` put into a bucket: then no scan is looked at, and `root` is asked
    for its table of participants alone, or for nothing if it is empty."""

    kept: str = ""
    """Local folder for the index of a cache in a bucket, and for as many of its volumes as fit; of
    one cache at a time. Runs on one machine may share it."""

    kept_gb: float = 100.0
    """Size that `kept` stays below, in 10^9 bytes. What does not fit is fetched in every epoch."""

    labels: str = ""
    """Label table, one participant a row; empty: `participants.tsv` under the root, if there. Or a
    folder of OMOP tables, such as AI-READI's `clinical_data`, that are joined with that table."""

    label_concepts: str = ""
    """Table of the columns to make of OMOP tables, as `read_concepts` takes it; empty: the HbA1c,
    age, years of diabetes and others in `oct_io.labels.concepts.AI_READI`."""

    label_columns: list[str] = field(default_factory=list)
    """Columns of the label table that are worth a probe, presets such as `healthy_vs_rest`, or
    what a shortcut could rest on: @device, @site, @eye, @region, @protocol."""

    split: str = ""
    """Table that `oct-io split` wrote; empty: the label table's `recommended_split`, if there."""

    excluded_splits: list[str] = field(default_factory=lambda: ["test"])
    """Parts of the split whose participants pretraining never sees."""

    mixed_releases: bool = False
    """Take a label table with a recommended split of another release than the scans. Who is in the
    test split differs between releases, so this can test on people who were trained on."""

    jobs: int = 0
    """Processes that decode and resample; 0 means one for each core."""

    max_bad_fraction: float = 0.5
    """Stop if more than this share of the scans is refused; a few bad ones are normal."""

    storage: StorageConfig = field(default_factory=StorageConfig)
    """How buckets are reached, and whether fetched files are kept; the defaults leave in place what
    `configure_storage` was given."""

    recipe: str = ""
    """Public data set that lies at the root as its publisher lays it out; `oct-io datasets` lists
    them. Scans, labels, official split and what is known of spacing come from it."""

    spacing_mm: list[float] = field(default_factory=list)
    """Millimetres (between B-scans, row, column) of the scans of a recipe that knows none; of
    single B-scans the first is not read. Empty leaves them in voxels."""

    bscans: BscanConfig | None = None
    """Take every image below the root as one B-scan of its own, and say whose it is."""

    phantom: PhantomTree | None = None
    """Draw this made-up data set at the root first."""

    def __post_init__(self) -> None:
        try:
            bscans = self.cut().require_fixed_shape()[0]
        except ValueError as error:
            raise ValueError(f"data.window {error}") from error
        if self.bscans is not None:
            self.bscans.check_beside(self.window, bscans, self.manifest, self.annotations)
        self._check_recipe(bscans)
        self._check_kind()
        self.selection()
        if "://" in self.kept or not self.kept_gb > 0:
            raise ValueError(
                f"data.kept ({self.kept}) must be a local folder, and data.kept_gb ({self.kept_gb})"
                " above 0"
            )
        if "://" in self.cache and self.recipe:
            raise ValueError(
                f"data.recipe ({self.recipe}) reads the files of the data set; for a cache in a "
                "bucket take data=cached data.labels=TABLE"
            )
        if self.jobs < 0:
            raise ValueError(f"data.jobs ({self.jobs}) must be 0, for one a CPU, or more")
        check_flag_names(self.flags, "data.flags")
        check_annotations(self.annotations, "data.annotations")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(f"data.max_bad_fraction ({self.max_bad_fraction}) must be 0 to 1")

    def _check_recipe(self, window_bscans: int) -> None:
        """Refuse what does not go with a recipe, or needs one."""
        if self.spacing_mm:
            wrong = len(self.spacing_mm) != 3 or not all(0 < one < 10 for one in self.spacing_mm)
            if wrong or not self.recipe:
                raise ValueError(
                    f"data.spacing_mm ({self.spacing_mm}) must be three numbers of millimetres, "
                    "and goes with data.recipe; others: volume.json, data.bscans.spacing_mm"
                )
        if not self.recipe:
            return
        try:
            recipe = find_recipe(self.recipe)
        except ValueError as error:
            raise ValueError(f"data.recipe {error}") from error
        if self.bscans is not None or self.manifest or self.phantom is not None:
            raise ValueError(
                f"data.recipe ({self.recipe}) says itself which scans there are; "
                "data.bscans, data.manifest and data.phantom do nothing with it"
            )
        if recipe.bscans and window_bscans > 1:
            raise ValueError(
                f"data.window={self.window} takes {window_bscans} B-scans, and {self.recipe} has "
                "one at a time; take one such as 96x256"
            )

    def cut(self) -> Window:
        """What is cut out of each scan."""
        window = find_window(self.window)
        return replace(window, mirror_left=self.mirror_left, flattened=self.flatten)

    def _check_kind(self) -> None:
        """Refuse what is of retinas alone, where the scans show none."""
        if self.kind not in KINDS:
            raise ValueError(f"data.kind ({self.kind}) must be {' or '.join(KINDS)}")
        if self.kind == "oct":
            return
        if not find_window(self.window).takes_all:
            raise ValueError(
                f"data.window={self.window} is a box about a retina; data.kind=volume takes all of "
                "each volume, brought to so many voxels: data.window=32x32x32"
            )
        for name in ("bscans", "recipe", "phantom", "flags", "flatten"):
            if getattr(self, name):
                raise ValueError(f"data.{name} is of retinas; leave it out, or data.kind=volume")

    @property
    def scan_kind(self) -> Kind:
        """What the scans show, where nothing beside them says it."""
        return "volume" if self.kind == "volume" else "oct"

    def selection(self) -> Selection:
        """Scans to take."""
        return Selection(devices=self.devices, regions=self.regions, lateralities=self.lateralities)
