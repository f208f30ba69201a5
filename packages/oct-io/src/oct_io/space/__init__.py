"""Millimetres: the windows that are cut out of a scan, and how voxels and layers get there.

`windows` names them, `resample` and `layers` cut, `grey` knows what is white, `transforms` augments
for training (MONAI). Anyone may import this wing; it knows volumes, and never files, formats or
data sets.
"""
