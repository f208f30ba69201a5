"""From scans to windows of one shape, in millimetres; a scan's own spacing is found in `scan`.

`windows` names them, `resample` and `layers` cut, `thickness` measures between layers, `grey` knows
what is white. `transforms` augments for training (MONAI), `perturbations` spoil for a test. Anyone
may import this wing; it knows volumes, and never files, formats or data sets.
"""
