"""pylvs-vrrp, the process of the virtual routers, and the daemon's part in it: start, configure, supervise, stop."""
