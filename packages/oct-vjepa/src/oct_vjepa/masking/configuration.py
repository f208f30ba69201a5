"""How much is hidden and in which shapes: settings with the reason for each value."""

from dataclasses import dataclass, field

from oct_vjepa.rules import ABOVE_0_TO_1, AT_LEAST_1, BETWEEN_0_AND_1, check_choices, check_numbers

MASK_KINDS = ("blocks", "foreground", "patches", "cubes", "vjepa2")
FOREGROUND_MEASURES = ("mean", "std")


@dataclass(kw_only=True, slots=True)
class ForegroundConfig:
    """How patches are told apart: the share of them with the largest measure is foreground."""

    measure: str = "mean"
    """"mean": bright patches, for scanners that show tissue bright on dark; "std": patches with
    texture or edges, whatever their brightness."""
    fraction: float = 0.3
    """Share of a volume's patches that count as foreground. A share and not a threshold: it needs
    no unit, survives a change of gain, and gives every volume the same number."""

    def __post_init__(self) -> None:
        check_choices(self, "foreground", measure=FOREGROUND_MEASURES)
        check_numbers(self, "foreground", BETWEEN_0_AND_1, "fraction")


@dataclass(kw_only=True, slots=True)
class MaskSetConfig:
    """One way to mask: which sampler, its shapes, and how much becomes target and context."""

    kind: str = "blocks"
    """"blocks": tubes under rectangles. "foreground": the same, drawn to the foreground.
    "patches": independent patches, as MAE has them and the predecessor did. "cubes": small cubes,
    as the latter said it did.
    "vjepa2": the sampler of V-JEPA 2, whose sizes change at each step; to compare, not for XLA."""
    blocks: int = 8
    """Rectangles whose union suggests the targets; they may overlap."""
    scale: float = 0.15
    """Area of one block over the area of the (Y, X) plane."""
    aspect_low: float = 0.75
    """Smallest height over width of a block, in patches (V-JEPA 2)."""
    aspect_high: float = 1.5
    """Largest height over width of a block, in patches (V-JEPA 2)."""
    target_fraction: float = 0.60
    """Share of the patches that become targets; near the mean union of the blocks."""
    context_fraction: float = 0.30
    """Share of the patches that become context; what is in neither is not used."""
    max_targets: int | None = None
    """At most this many target patches a volume, a random part of them. The predictor attends to
    context and targets together, so this bounds its cost; None predicts all."""
    cube_size: tuple[int, int, int] = (2, 2, 2)
    """Patches of a cube along (Z, Y, X); "cubes" only."""
    foreground_fraction: float = 0.40
    """Share of the columns that count as foreground; "foreground" only."""
    context_foreground: float = 0.25
    """Share of those columns that is never a target but context; "foreground" only. Without it the
    encoder would seldom be given what it is asked about."""

    def __post_init__(self) -> None:
        check_choices(self, "masking.sets", kind=MASK_KINDS)
        check_numbers(self, "masking.sets", AT_LEAST_1, "blocks")
        check_numbers(self, "masking.sets", ABOVE_0_TO_1, "scale")
        if not 0 < self.aspect_low <= self.aspect_high:
            raise ValueError(
                f"masking.sets.aspect_low ({self.aspect_low}) must be above 0 and at most "
                f"aspect_high ({self.aspect_high})"
            )
        target, context = self.target_fraction, self.context_fraction
        if not (target > 0 and context > 0 and target + context <= 1 + 1e-9):
            raise ValueError(
                f"masking.sets.target_fraction ({target}) and context_fraction ({context}) must be "
                "positive and add up to at most 1"
            )
        self._check_options()

    def _check_options(self) -> None:
        if self.max_targets is not None:
            check_numbers(self, "masking.sets", AT_LEAST_1, "max_targets")
        cube = tuple(int(edge) for edge in self.cube_size)  # OmegaConf gives a list
        if len(cube) != 3 or min(cube) < 1:
            raise ValueError(f"masking.sets.cube_size ({cube}) must be three positive sizes")
        self.cube_size = cube
        fractions = ("foreground_fraction", "context_foreground")
        check_numbers(self, "masking.sets", BETWEEN_0_AND_1, *fractions)

    @property
    def fixed_size(self) -> bool:
        """Whether the sizes follow from the configuration, so that XLA compiles once."""
        return self.kind != "vjepa2"

    def sizes(self, grid: tuple[int, int, int]) -> tuple[int, int]:
        """Patches of a volume that become (target, context).

        Raises:
            ValueError: the grid is so small that one of them would be empty, or the kind is
                "vjepa2", whose sizes are drawn.
        """
        if not self.fixed_size:
            raise ValueError("masking.sets.kind 'vjepa2' draws its sizes; they are not known")
        targets, contexts = self._split(grid)
        slices = 1 if self.kind in ("patches", "cubes") else grid[0]
        return min(targets * slices, self.max_targets or targets * slices), contexts * slices

    def columns(self, grid: tuple[int, int, int]) -> tuple[int, int]:
        """Columns of the (Y, X) plane that become (target, context), before `max_targets`.

        Raises:
            ValueError: the grid is so small that one of them would be empty.
        """
        plane = grid[1] * grid[2]
        return self._shares(plane, "columns", grid)

    def _split(self, grid: tuple[int, int, int]) -> tuple[int, int]:
        """(target, context) in the unit that the sampler ranks: patches or columns."""
        if self.kind in ("patches", "cubes"):
            return self._shares(grid[0] * grid[1] * grid[2], "patches", grid)
        return self.columns(grid)

    def _shares(self, whole: int, unit: str, grid: tuple[int, int, int]) -> tuple[int, int]:
        targets = round(whole * self.target_fraction)
        contexts = min(round(whole * self.context_fraction), whole - targets)
        if targets < 1 or contexts < 1:
            raise ValueError(
                f"masking.sets: a grid of {tuple(grid)} patches leaves {targets} target and "
                f"{contexts} context {unit}; use smaller patches or other fractions"
            )
        return targets, contexts


def _vjepa2_sets() -> list[MaskSetConfig]:
    # V-JEPA 2's short- and long-range sets; with these fractions 96 % of the targets lie in blocks.
    return [
        MaskSetConfig(blocks=8, scale=0.15, target_fraction=0.60, context_fraction=0.30),
        MaskSetConfig(blocks=2, scale=0.70, target_fraction=0.80, context_fraction=0.15),
    ]


@dataclass(kw_only=True, slots=True)
class MaskingConfig:
    """The mask sets; every volume goes through each of them at every step."""

    sets: list[MaskSetConfig] = field(default_factory=_vjepa2_sets)
    """Small scattered blocks and a few large ones, as in V-JEPA 2."""

    foreground: ForegroundConfig = field(default_factory=ForegroundConfig)
    """What counts as foreground, for mask sets of that kind and for diagnostics."""

    def __post_init__(self) -> None:
        if not self.sets:
            raise ValueError("masking.sets ([]) must hold at least one mask set")

    def check(self, grid: tuple[int, int, int]) -> None:
        """Refuse a grid on which a mask set would be empty.

        Raises:
            ValueError: names the grid and the set's unit.
        """
        for one in self.sets:
            if one.fixed_size:
                one.sizes(grid)

    @property
    def needs_foreground(self) -> bool:
        """Whether `sample_masks` must be given the foreground."""
        return any(one.kind == "foreground" for one in self.sets)


def predecessor_masking() -> MaskingConfig:
    """The predecessor's: 60 % of the patches, drawn by themselves (data_setup/transforms.py)."""
    one = MaskSetConfig(kind="patches", target_fraction=0.6, context_fraction=0.4)
    return MaskingConfig(sets=[one])
