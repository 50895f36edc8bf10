"""Runs a network on processors, compares it with Python, and reports what it takes."""
