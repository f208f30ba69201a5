"""Scans of a data set before they are opened: what says which there are, and what they are called.

`record` is one of them, `discovery` finds them in a tree that nothing lists, `sidecars` are what
folders say of all scans below them, `companions` which mask and layers belong to a scan, and
`opening` reads one with all that is said of it. The catalog makes its lists of records and the
cache is built from them; this wing reads scans through the readers, and never knows tables.
"""
