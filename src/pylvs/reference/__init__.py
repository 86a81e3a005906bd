"""IPVS's decisions in plain Python: the executable specification. Frames in, verdicts and frames out; no I/O.

Written to be read beside IPVS-SEMANTICS, whose sections the docstrings cite. Addresses are packed bytes as they stand
in packets (4 or 16 of them), ports are numbers, times are seconds of a clock that the caller advances.
"""
