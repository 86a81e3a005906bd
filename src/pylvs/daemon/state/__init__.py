"""What a daemon keeps on disk: its state directory, and the operator's overrides, drains and events in it."""
