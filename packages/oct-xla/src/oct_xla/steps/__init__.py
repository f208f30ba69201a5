"""One step: a loss, its gradients, an optimiser, and what can go wrong in them.

`objective` is what `fit` can train, `learner` that with its optimiser on its devices. `adamw` and
`guard` let the device decide which steps count, `failures` tells what went wrong apart, `memory`
is what is known and noted where it runs out, `cutting` cuts the batch by that, `deaths` knows how
the start before has died. `preemption` is a request to stop, which `maintenance` makes too.
It never opens a checkpoint: `checkpointer` does.
"""
