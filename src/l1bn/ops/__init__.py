"""Operators, one file per backend, and the registry that picks one."""
