"""What became of every tensor while weights of another layout were read."""

from dataclasses import dataclass, field

from oct_vjepa.model.weights import WeightsError

LEAST_SHARE = 0.95
"""Below it the file is of another model. V-JEPA 2's own loader takes any share in silence
(facebookresearch/vjepa2 issue 149)."""
NEEDED = ("patches.", "positions.", "norm.")  # without one of these no token means anything


@dataclass(kw_only=True, slots=True)
class LoadReport:
    """Names of the model's tensors by what was found for them; prints as a table."""

    source: str
    """Where the weights came from."""
    layout: str
    """Which layout was recognised, and which part of it was taken."""
    matched: list[str] = field(default_factory=list)
    """Taken as they are."""
    adapted: dict[str, str] = field(default_factory=dict)
    """Taken after a change; the value says which."""
    missing: dict[str, str] = field(default_factory=dict)
    """Not found, or of a shape that cannot be made to fit; the value says why."""
    unexpected: list[str] = field(default_factory=list)
    """In the file, but not in the model."""
    notes: list[str] = field(default_factory=list)
    """What was assumed because the file does not say it."""

    @property
    def share(self) -> float:
        """Tensors of the model that were found, over all of them."""
        found = len(self.matched) + len(self.adapted)
        return found / max(found + len(self.missing), 1)

    def check(self) -> None:
        """Refuse a load that is not one.

        Raises:
            WeightsError: less than `LEAST_SHARE` was found, or the patch embedding, the position
                table or the last norm was not.
        """
        vital = [name for name in self.missing if name.startswith(NEEDED)]
        if self.share >= LEAST_SHARE and not vital:
            return
        lost = [f"{name} ({why})" for name, why in list(self.missing.items())[:4]]
        more = f" and {len(self.missing) - 4} more" if len(self.missing) > 4 else ""
        raise WeightsError(
            f"{self.source}: only {self.share:.0%} of the encoder was found in the layout "
            f"{self.layout}, at least {LEAST_SHARE:.0%} and every patch and norm weight is needed; "
            f"missing {', '.join(lost)}{more}; unexpected {self.unexpected[:4]}"
        )

    def __str__(self) -> str:
        rows = [
            f"source      {self.source}",
            f"layout      {self.layout}",
            f"matched     {len(self.matched)}",
            f"adapted     {len(self.adapted)}",
            *(f"            {name}: {how}" for name, how in self.adapted.items()),
            f"missing     {len(self.missing)}",
            *(f"            {name}: {why}" for name, why in self.missing.items()),
            f"unexpected  {len(self.unexpected)}",
            *(f"            {name}" for name in self.unexpected),
            f"found       {self.share:.1%}",
            *(f"note        {note}" for note in self.notes),
        ]
        return "\n".join(rows)
