"""Programs that pylvs starts: scripts of an operator, and its own."""
