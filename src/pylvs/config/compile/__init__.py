"""The tree to effective settings, and those to model objects: keepalived's rules, and findings.."""
