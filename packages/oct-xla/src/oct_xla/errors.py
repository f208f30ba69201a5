"""What can go wrong in a training run; each text is one line that ends with what to do."""


class OctXlaError(Exception):
    """Base of every error that oct_xla raises on purpose."""


class DeviceError(OctXlaError):
    """A device that is not there, lacks its software, or ran out of memory."""


class OutOfMemoryError(DeviceError):
    """Memory ran out where the run cannot go on in this process.

    Attributes:
        again: whether the same start, made again, takes less and goes on from the newest
            checkpoint; else one sample at a time was too much, or an evaluation.
        evaluating: whether it was an evaluation, so that steps as they are may well fit.
        guessed: whether memory is but the likely reason, as the start before has died.
    """

    def __init__(
        self, text: str, *, again: bool, evaluating: bool = False, guessed: bool = False
    ) -> None:
        super().__init__(text)
        self.again, self.evaluating, self.guessed = again, evaluating, guessed


class FeedError(OctXlaError):
    """A feed that cannot make the batches it was asked for, or a sample that failed."""


class CheckpointError(OctXlaError):
    """A checkpoint that cannot be written, read, or used for this objective."""


class RunFolderError(OctXlaError):
    """A run folder that belongs to another run, or that another process is writing."""


class NonFiniteError(OctXlaError):
    """Too many steps in a row whose loss or gradient was not a finite number."""
