"""The native kernels as a backend: eagerly, under autograd and as registered operators."""
