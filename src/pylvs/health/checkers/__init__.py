"""The checkers, one file each, and the sockets that they share."""
