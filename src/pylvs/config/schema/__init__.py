"""keepalived's language as data: every block and keyword with its type, default and state; and how they are read."""
