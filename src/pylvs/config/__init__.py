"""keepalived.conf: `language` parses text, `schema` reads values, `compile` makes model objects and findings."""
