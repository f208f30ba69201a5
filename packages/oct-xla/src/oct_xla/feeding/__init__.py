"""From a data set to batches in memory, as pure functions of (seed, epoch, index).

`order` says which sample stands where, `feed` makes batches of them, `workers` are the processes
that do it and `ahead` the thread that takes their batches over; `mixture` makes one data set of
several with weights. Anyone may import this wing; it knows no device, no folder and no step.
"""
