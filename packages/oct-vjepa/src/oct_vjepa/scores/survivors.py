"""Who is still without an event, over time, by Kaplan & Meier 1958; and groups of equal size."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.shares import Floats

WITHIN = 1.96  # standard errors on either side of a 95 % interval
WIDEST = 50.0  # of the logarithm; beyond, an interval is all from 0 to 1


class Survivors(NamedTuple):
    """A step for time 0 and for each time of an event; the last step holds to the end."""

    time_P: Floats
    share_P: Floats  # without an event
    low_P: Floats  # 95 %, Greenwood's error of log(-log(share))
    high_P: Floats
    end: float  # last time at which anyone was observed


def survivors(time_N: Floats, event_N: NDArray[np.bool_]) -> Survivors:
    """The share without an event at each time.

    Args:
        time_N: of the event, or of the end of observation.
        event_N: true for an event.

    Raises:
        ValueError: nobody, or a time that is not known.
    """
    times, events = np.asarray(time_N, np.float64), np.asarray(event_N, np.bool_)
    if not len(times) or not np.isfinite(times).all():
        raise ValueError(f"{len(times)} times, all of which must be known and at least one there")
    steps = np.unique(times[events])
    at_risk = (times[None, :] >= steps[:, None]).sum(axis=1)
    happened = ((times[None, :] == steps[:, None]) & events).sum(axis=1)
    share = np.cumprod(1.0 - happened / at_risk)
    left = np.maximum(at_risk - happened, 1e-12)
    variance = np.cumsum(happened / (at_risk * left))
    inside = (share > 0) & (share < 1)
    log = np.log(np.where(inside, share, 0.5))
    error = np.minimum(WITHIN * np.sqrt(variance) / np.abs(log), WIDEST)
    low = np.where(inside, np.exp(log * np.exp(error)), share)
    high = np.where(inside, np.exp(log * np.exp(-error)), share)
    first = np.ones(1)
    return Survivors(
        np.concatenate([[0.0], steps]),
        np.concatenate([first, share]),
        np.concatenate([first, low]),
        np.concatenate([first, high]),
        float(times.max()),
    )


def parts_by_rank(risk_N: Floats, parts: int) -> NDArray[np.int64]:
    """Part of each row from 0, the lowest, in parts of equal size."""
    ranks = np.argsort(np.argsort(risk_N, kind="stable"), kind="stable")
    return ranks * parts // max(1, len(ranks))
