"""What packet filters of this host do with a packet: their rules, evaluated without sending one."""
