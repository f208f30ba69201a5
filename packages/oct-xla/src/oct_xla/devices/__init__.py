"""Where a run computes: CPUs, CUDA GPUs, TPUs, behind one small protocol.

`runtime` is the protocol, which `processes` keeps for CPUs and CUDA and `xla` for TPUs (with
`norms` that XLA can cut), and `device` picks one. `sharding` cuts parameters over processes,
`placing` sends batches, `malloc` keeps what a step frees, `compiled` is where XLA keeps what it has
compiled. torch-xla is imported by `xla` alone. This wing never knows an objective, an optimiser or
a folder of a run.
"""
