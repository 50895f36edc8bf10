"""What a float network computes: which layer takes whose output, and what must be refused."""
