"""Normalization rules of integer training: L1BN and the baselines beside it."""
