"""The other director of a pair: copies of its connections, and the comparison with it."""
