"""Which patches are hidden: `masks` decides, `samplers` draws, `foreground` weighs.

`configuration` has the kinds and sizes.
Objectives and the data feed import this wing; it knows patches, and never a network.
"""
