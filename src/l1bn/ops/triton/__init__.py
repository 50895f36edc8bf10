"""The GPU kernels as a backend: Triton, one source for NVIDIA and AMD."""
