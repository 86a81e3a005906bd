"""What keepalived has around its daemon: namespaces and instances, PID files, dumps, timed reloads."""
