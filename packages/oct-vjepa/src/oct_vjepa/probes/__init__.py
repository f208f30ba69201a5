"""What features are worth: models fitted to arrays of features, whosever features they are.

`protocol` says who is fitted, who chooses and who is tested; `grid` fits linear, neighbour and
hidden-layer probes on several readouts and chooses one, which `fitted` keeps. Beneath them:
`answers` knows the kinds of target, `candidates`, `descent` and `hidden` fit, `choice` finds the
best or asks several as one. `linear` and `neighbours` are single probes with intervals,
`comparison` puts several features side by side, `efficiency` asks with few labels, `shortcuts` asks
for what should not matter; `baselines` and `patchwork` are features that nobody learned. This wing
builds on `measures` and never touches an encoder.
"""
