"""Who answers beside the encoder and the baselines: networks from scratch, encoders of others.

`networks` makes MONAI's networks, `training` trains them by the recipe of the judge, `encoders`
opens encoders by `name=path`, `pooling` joins the volumes of a participant by attention.
"""
