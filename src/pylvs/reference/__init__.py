"""IPVS's decisions in plain Python: the executable specification. Frames in, decisions and frames out; no I/O.

The docstrings cite sections of IPVS-SEMANTICS. Addresses are 4 or 16 packed bytes, as in packets. Ports are numbers.
Times are seconds of a clock that the caller advances.
"""
