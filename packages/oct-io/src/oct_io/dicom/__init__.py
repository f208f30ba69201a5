"""Ophthalmic Tomography DICOM (PS3.3 A.52): headers, pixel data, and writing it.

Reading goes `deflated`, `groups`, `header`, then `codestream`, `decoders`, `pixels`; writing goes
`items`, `encoding`, `layout`, `writer`; `segmentation` and `segmentation_writer` are of masks.
`readers.dicom` makes a volume of it and the phantom is written with it. This wing knows the
standard, and never a data set or another format.
"""
