"""One scan of any format: what it says of itself, where its B-scans lie, whether it is a volume.

Spacing comes from `geometry`: frame positions, localizer lines or header fields in, scan pattern
and distance out. `file` is what a reader is given, `header` what is known before decoding,
`content` and `outcome` the checks that every reader ends with, `flags` what is suspicious and
refuses nothing; `masks` numbers the classes of a mask, `levels` says which grey level is which;
`protocols` knows what scanners call things. The formats (`dicom`, `readers`) build on this wing; it
imports storage and space, and never a format.
"""
