"""The web page: a process without privileges serves it, and asks the daemon through its parent."""
