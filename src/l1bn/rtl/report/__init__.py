"""Synthesize, measure and report units side by side."""
