"""Commands that explain what happens to packets."""
