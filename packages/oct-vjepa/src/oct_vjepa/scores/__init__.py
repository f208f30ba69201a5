"""How good predictions are: metrics with intervals, from arrays of scores, labels and participants.

The participant is the unit that is resampled. Nothing here has seen a feature, a volume or a model;
use it with the predictions of any program. This wing imports nothing of the package but `rules`.
"""
