"""act(norm(a) + norm(b)) on a GPU: where two branches of a residual block meet."""
