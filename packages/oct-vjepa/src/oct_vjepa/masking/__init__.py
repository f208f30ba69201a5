"""Which patches are hidden: `masks` says how many and by what kind, `samplers` ranks and splits.

The encoder sees the context alone; targets are predicted, and what is neither is left out.
`foreground` gives patches that hold something more weight, `configuration` has kinds and sizes.
Objectives and the data feed import this wing; it knows patches, and never a network.
"""
