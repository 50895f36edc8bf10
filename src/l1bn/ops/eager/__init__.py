"""The eager backend: plain PyTorch on any device, and what compilers and transforms see."""
