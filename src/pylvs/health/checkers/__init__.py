"""The checkers: the module of each type of check makes its probes."""
