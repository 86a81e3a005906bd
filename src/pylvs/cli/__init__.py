"""The `pylvs` command, one file a group of commands."""
