"""Continual learning: streams of tasks, rehearsal, and what was forgotten."""
