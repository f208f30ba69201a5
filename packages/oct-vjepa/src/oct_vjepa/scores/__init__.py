"""How good predictions are: metrics with intervals, from arrays of scores, labels and participants.

The participant is the unit that is resampled. Nothing here has seen a feature, a volume or a model;
use it with the predictions of any program. This wing imports nothing of the package but `rules`.

`target` says what was asked. `metrics` makes one row of each participant, and has what a single
probe needs; `measures` has every metric of every kind, from `ranking`, `decisions`, `chances` and
`quantities`, which take all bootstrap samples at once. `resampling` draws participants and seeds,
`scorecard` scores one candidate and compares several, `cards` are its results, `paired` its tests.
`subgroups` and `curves` look closer. `calibration`, `conformal` and `novelty` say how far a single
answer can be believed. `shares` divides by what may be nothing.
"""
