"""What may be set for masks alone; the recipe is `training`, as for labels."""

from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class SegmentConfig:
    """What is asked of masks, of whom, and what is left behind; modes segment and patches only."""

    boundaries: list[str] = field(default_factory=list)
    """Layer boundaries to learn from the vitreous outwards, with data.annotations=[layers]; empty
    takes those that nine of ten scans have. Masks have none to choose."""

    thickness: list[str] = field(default_factory=list)
    """The two boundaries between which thickness is measured in the ETDRS sectors; empty: ILM and
    BM, or what comes nearest to it, if they are learnt."""

    unet: bool = True
    """A MONAI U-Net of about the encoder's size, trained from scratch by the same recipe."""

    trivial: bool = True
    """What needs no training: where classes usually lie, and what their grey levels are."""

    dicom: bool = False
    """Write each test mask, or with predict= each new one, as a DICOM Segmentation too, for scans
    that came from DICOM files."""

    classes: list[str] = field(default_factory=list)
    """mode=patches: the classes that are asked for, by name; empty: all but the background."""

    blocks: list[int] = field(default_factory=list)
    """mode=patches: blocks of the encoder that are read side by side, from 0; empty: the first, the
    middle and the last."""

    around: list[int] = field(default_factory=lambda: [3, 5])
    """mode=patches: sides of the squares of patches whose mean is read beside each patch, odd; of
    every candidate. Empty: each patch alone."""

    patches: int = 50000
    """mode=patches: patches that are fitted on at most, drawn by the seed; so many take a logistic
    regression a minute where all would take an hour."""

    def __post_init__(self) -> None:
        if self.thickness and len(self.thickness) != 2:
            raise ValueError(f"segment.thickness ({self.thickness}) must be two boundaries")
        if lost := [one for one in self.thickness if one not in (self.boundaries or [one])]:
            raise ValueError(f"segment.thickness ({lost[0]}) must be among segment.boundaries")
        if wrong := [one for one in self.blocks if one < 0]:
            raise ValueError(f"segment.blocks ({wrong[0]}) must be 0 or more")
        if len(set(self.blocks)) != len(self.blocks):
            raise ValueError(f"segment.blocks ({self.blocks}) must be different blocks")
        if wrong := [one for one in self.around if one < 3 or one % 2 == 0]:
            raise ValueError(f"segment.around ({wrong[0]}) must be odd, 3 or more")
        if self.patches < 100:
            raise ValueError(f"segment.patches ({self.patches}) must be at least 100")
