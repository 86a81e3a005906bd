"""The table: what the daemon left in it, the edits to the desired state, the services that it owns, its growth."""
