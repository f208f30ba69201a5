"""What may be set for masks alone; the recipe is `training`, as for labels."""

from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class SegmentConfig:
    """What is drawn, who draws beside the encoder, and what is left behind; mode=segment only."""

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
    """Write each test mask as a DICOM Segmentation too, for scans that came from DICOM files."""

    def __post_init__(self) -> None:
        if self.thickness and len(self.thickness) != 2:
            raise ValueError(f"segment.thickness ({self.thickness}) must be two boundaries")
        if lost := [one for one in self.thickness if one not in (self.boundaries or [one])]:
            raise ValueError(f"segment.thickness ({lost[0]}) must be among segment.boundaries")
