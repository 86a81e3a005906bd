"""pylvs beside other ways to forward: the same traffic over the same wire, in the kernel that it runs on."""
