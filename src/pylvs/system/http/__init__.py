"""HTTP/1.1 as pylvs serves it: on UNIX sockets to this host's users, over TCP and TLS to browsers."""
