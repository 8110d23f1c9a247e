"""Layout, partition and the explanation."""
