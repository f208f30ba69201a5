"""Settings by name, each number with its source: what `encoder=base` means, and whole runs.

`sources` says what a value with its source is and `named` what may have a name. `choices` names
encoders, masks and objectives, and `runs` puts them together with a schedule and the numbers of a
loop: both are the one home of these values, which the command lines read too, and need no torch
until something is built. `costs` counts what a run takes. This wing builds on model, masking and
objectives; it trains nothing, and what one data set asks for is for `plans`.
"""
