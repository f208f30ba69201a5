"""One step: a loss, its gradients, an optimiser, and what can go wrong in them.

`objective` is what `fit` can train, `learner` that with its optimiser on its devices. `adamw` and
`guard` let the device decide which steps count, `failures` tells what went wrong apart, `memory`
what is done where it runs out, `preemption` is a request to stop, which `maintenance` makes too.
It never opens a checkpoint: `checkpointer` does.
"""
