"""The devices that run the programs: desired state, attachment, the watcher of links."""
