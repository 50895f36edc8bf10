"""Writes a network as C, beside the runtime that it needs."""
