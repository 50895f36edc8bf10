"""L1-norm batch normalization for PyTorch, integer training and hardware."""
