"""Where an encoder meets a data set: its features, kept; maps; a first look.

`features` and `embedding` compute them once, `sliced` makes an encoder of B-scans one of volumes,
`foreign` does so with models of others; `sources` and `tables` are where volumes come from and
features go to. `online` looks during training, `token_probe` trains heads on `kept_tokens`,
`patch_probe` asks each of them what lies in its patch, `participants` trains a pool over the
volumes of a person, `maps` draws what tokens say, `occlusion` covers a volume part by part. The
arithmetic is in `probes` and `scores`.
"""
