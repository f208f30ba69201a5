"""What features are worth: models fitted to arrays of features, whosever features they are.

`protocol` says who is fitted, who chooses and who is tested, `holdout` who calibrates; `grid` fits
linear, neighbour and hidden-layer probes on several readouts, as `configuration` says, and chooses
one, which `fitted` keeps. Beneath them: `answers` knows the kinds of target, `candidates`,
`descent`, `hidden` and `neighbours` fit, `choice` finds the best or asks several as one;
`baselines` and `patchwork` are features that nobody learned, `voxels` masks that nobody learned to
draw. This wing builds on `measures` and never touches an encoder.
"""
