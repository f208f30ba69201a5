"""What features are worth: models fitted to arrays of features, whosever features they are.

`linear` and `neighbours` fit and score, `comparison` puts several features side by side,
`efficiency` asks with few labels, `shortcuts` asks for what should not matter; `baselines` are
features that nobody learned. This wing builds on `scores` and never touches an encoder.
"""
