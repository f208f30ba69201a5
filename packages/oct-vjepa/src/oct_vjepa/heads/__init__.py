"""What stands on an encoder: linear, MLP, attentive, patch and segmentation heads; how they learn.

`head` says what all of them are, `build` makes one by name, `answer` says what its outputs mean,
`multivolume` pools the volumes of a participant and trains on kept features. `supervised` and
`segmentation` train with the encoder, with the `costs` and `losses` of each kind of question;
`finetuning` decides what learns and how fast, `adapters` are LoRA, `augmentation` changes volumes.
`configuration` holds all settings and needs no torch. This wing builds on the model; it never reads
a label table, and its scores come from the evaluation.
"""
