"""keepalived's configuration language: text to a tree whose words know their locations."""
