"""What clients notice of a failover: the gap of new connections, and lost established ones."""
