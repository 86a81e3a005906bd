"""Replace programs, the connection table or all maps under live connections."""
