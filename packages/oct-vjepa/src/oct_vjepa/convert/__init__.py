"""Weights of other projects become an `Encoder`, and an `Encoder` becomes files for other tools.

encoder, report = read_encoder("vitl.pt", ConversionConfig(channels=1, patch_size=(4, 16, 16)))
print(report)
encoder.save_pretrained("encoder")

A module a layout (`vjepa2`, `transformers`, `predecessor`), `adapt` for other patches and grids,
`export` for ONNX and torch.export. This wing builds on the model, and never trains or judges.
"""

from oct_vjepa.convert.formats import FORMS, read_encoder, write_encoder
from oct_vjepa.convert.layout import ConversionConfig
from oct_vjepa.convert.predictors import read_predictor
from oct_vjepa.convert.report import LoadReport

__all__ = [
    "FORMS",
    "ConversionConfig",
    "LoadReport",
    "read_encoder",
    "read_predictor",
    "write_encoder",
]
