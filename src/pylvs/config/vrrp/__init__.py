"""From the blocks about virtual routers to `model.vrrp`: keepalived's rules, and what is wrong."""
