"""Import the firewall marks that rules of iptables and nftables set, as mark rules."""
