"""What a run measures of itself, and who is told.

`metrics` are clock, memory and rates, `work` arithmetic and MFU, `compiling` which shape has made
XLA compile late. `sinks` are who listens: a terminal, a log, Weights & Biases. `watchers` look in
from outside: a trace, the stacks of a process that hangs. It never changes a run.
"""
