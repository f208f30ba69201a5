"""Which patches are hidden: `masks` decides sizes and kinds, `samplers` draws, `foreground` weighs.

Objectives and the data feed import this wing; it knows patches, and never a network.
"""
