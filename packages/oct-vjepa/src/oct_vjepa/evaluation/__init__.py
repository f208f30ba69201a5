"""What features are worth: probes with intervals, baselines, comparisons, shortcuts, few labels.

`metrics`, `probes`, `neighbours`, `comparison`, `efficiency`, `shortcuts` and `baselines` take
arrays of features, labels and participants, and never see a model: use them with any encoder. Only
`features`, `embedding`, `encoders`, `online` and `maps` touch an encoder, and `token_probe` trains
a head. `sources` and `tables` are where volumes come from and embeddings go to.
"""
