"""Scans of a data set before they are opened: what says which there are, and what they are called.

`record` is one of them, `discovery` finds them in a tree that nothing lists and `looks` into files
whose names do not tell, `sidecars` are what folders say of all scans below them, and `opening`
reads one with all that is said of it. Masks and layer boundaries in files of their own are matched
in `companions`, read in `annotations` and counted in `annotated`; masks of single B-scans, which
are images, are in `drawings`. The catalog makes its lists of records and the cache is built from
them; this wing reads scans through the readers, and never knows tables.
"""
