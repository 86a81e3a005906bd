"""Compile the tree into effective settings, and those into model objects, by keepalived's rules."""
