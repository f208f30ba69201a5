"""What stands on an encoder: linear, MLP, attentive and segmentation heads, and how they learn.

`head` says what all of them are. `classifier` and `segmentation` are objectives for fine-tuning,
`finetuning` decides what learns and how fast, `adapters` are LoRA. This wing builds on the model;
it never reads a label table, and its scores come from the evaluation.
"""
