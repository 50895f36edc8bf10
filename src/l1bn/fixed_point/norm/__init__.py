"""One normalization: its formats, statistics, forward and backward, and its layer of 8 bits."""
