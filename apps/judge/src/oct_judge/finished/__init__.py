"""What becomes of an answer: a model in a folder, its card, and its use on new scans.

`keeping` gathers the folder at the end of an evaluation, `card` writes its README from the numbers.
`patch_model` does both for a model of patches. `predicting` scores a folder of scans with it,
`scored` keeps the rows of that, `located` those of patches. `spoiling` asks how
an answer falls when volumes get worse.
"""
