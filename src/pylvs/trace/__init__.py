"""Show the way of single packets through the director: filters, sessions, and what `pylvs trace` prints and writes."""
