"""What a run keeps in its folder, and how it is written, read back and locked."""
