"""Which kernels and devices the packet path works on: `./dev kernels`."""
