"""From an integer network to a list of steps, with a place in memory for everything."""
