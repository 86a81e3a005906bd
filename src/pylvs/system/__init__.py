"""The operating system below pylvs: namespaces, locks, processes, settings, logs."""
