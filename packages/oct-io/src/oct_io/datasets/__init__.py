"""Public data sets as they are published: a module each, read with `data=NAME data.root=DIR`.

`recipe` says what a recipe is, `tree` looks at the files, `contents` makes scans, labels and a
split of what a recipe found, and `registry` names them all; `oct-io datasets NAME DIR` checks a
copy. A recipe reads names, folders and tables, decodes no scan, and ships none. Where a layout was
taken from is in the docstring of its module, and whether anybody has run it on the real files.
This wing builds on the catalog and the labels, and never knows a cache.
"""
