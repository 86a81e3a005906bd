"""The processes without privileges, which parse what other hosts and other users send."""
