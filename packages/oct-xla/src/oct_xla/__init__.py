"""Train one objective on a CPU, CUDA GPUs or TPUs."""
