"""The compiled library of ``csrc/`` and its interfaces; knows C, and nothing of autograd."""
