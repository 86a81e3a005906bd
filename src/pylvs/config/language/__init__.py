"""keepalived's configuration language: text to a tree with locations."""
