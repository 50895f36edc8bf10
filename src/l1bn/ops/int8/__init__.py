"""Kernels of integer training on torch tensors: convolutions, normalization, element-wise work."""
