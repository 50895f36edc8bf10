"""Monitors: a block, what may be assumed of its surroundings, and what must hold."""
