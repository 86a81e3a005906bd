"""Connection synchronization: the daemons that a command or a configuration starts."""
