"""Which devices run the programs: desired state, attachment, the watcher of links."""
