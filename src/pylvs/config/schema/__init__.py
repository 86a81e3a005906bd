"""keepalived's keywords as data: every block and keyword with its type, default and state."""
