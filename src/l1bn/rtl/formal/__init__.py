"""What is proven of a unit, for every input: claims in Amaranth, decided by an SMT solver."""
