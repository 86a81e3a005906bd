"""Rules of iptables and nftables, read as far as they give packets firewall marks, and written as pylvs's own."""
