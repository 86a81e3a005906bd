"""pylvs: the Linux Virtual Server, with an eBPF data plane run from Python."""

__version__ = "0.1.0"
