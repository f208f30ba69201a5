"""What a proposal goes by: the data, the machine, and what a step took on it."""

from dataclasses import dataclass

from oct_vjepa.rules import AT_LEAST_1, POSITIVE, check_numbers

DEVICES = ("cpu", "cuda", "xla")


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """The data and the machine."""

    volumes: int
    """For training."""
    participants: int
    """Whose they are."""
    input_shape: tuple[int, int, int]
    """Voxels of each along (Z, Y, X)."""
    device: str
    """One of `DEVICES`."""
    memory_gb: float
    """Of the accelerator, else of the machine."""
    cores: int
    """CPUs that this process may use."""
    hours: float
    """That training may take."""

    def __post_init__(self) -> None:
        check_numbers(self, "facts", AT_LEAST_1, "volumes", "participants", "cores")
        check_numbers(self, "facts", POSITIVE, "memory_gb", "hours")
        if self.device not in DEVICES:
            raise ValueError(f"facts.device ({self.device!r}) must be one of {DEVICES}")

    @property
    def accelerated(self) -> bool:
        """Whether it is more than a CPU."""
        return self.device != "cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What steps of a proposal took on the machine."""

    step_s: float
    """Seconds of an optimiser step, everything included."""
    steps: int
    """How many were timed, after a first one that was not."""
    accumulate: int = 1
    """Micro-batches of a step, as many as its memory needs."""
    memory_gb: float = 0.0
    """Most that was in use on the accelerator; 0: not known."""
