"""How a run uses the machine: its device, threads and processes, and the key that stops it."""
