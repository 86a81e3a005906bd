"""Links, addresses, routes, rules, queueing disciplines and nf_tables over netlink sockets."""
