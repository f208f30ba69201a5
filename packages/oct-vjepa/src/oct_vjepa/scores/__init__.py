"""How good predictions are, with intervals: cards, comparisons, and how far to believe an answer.

The participant is the unit that is resampled: `resampling` draws participants and seeds,
`scorecard` scores one candidate and compares several, `cards` are its results, `paired` its tests,
`words` the names of metrics.
`subgroups` and `curves` look closer, `agreement` at quantities, `survivors` at times, `measured` at
numbers of each volume. `calibration`, `conformal` and `novelty` say how far a single answer can be
believed. Nothing here has seen a volume or a model; use it with the predictions of any program.
This wing builds on `measures`.
"""
