"""Orders of ops, one short file a family, and the checker that proves them."""
