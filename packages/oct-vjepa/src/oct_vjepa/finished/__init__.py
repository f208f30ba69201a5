"""A finished model, kept as one folder: who answers, how sure, and for which volumes it was made.

`about` is what the folder says of itself, `member` an encoder with what was fitted on it, `folder`
the files, `model` what answers, `predictions` the answers, `drawings` masks and `located` maps of
patches. Nothing is fitted here and nothing is unpickled: JSON and safetensors, each file with its
hash. This wing needs no scans: volumes come as arrays.
"""
