"""The daemon's API: HTTP with JSON on a socket of root's; what it tells, and who asks it."""
