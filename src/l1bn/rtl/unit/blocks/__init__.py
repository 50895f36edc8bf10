"""The blocks that compute: element path, statistics, reciprocals, the multiplier of scalars."""
