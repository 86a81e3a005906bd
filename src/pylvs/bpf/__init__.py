"""libbpf, bpf(2), BPF maps and the layout of their elements."""
