"""The helper process of the virtual routers: scripts, tracked files and processes, notifications and the log."""
