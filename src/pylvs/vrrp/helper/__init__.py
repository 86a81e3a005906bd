"""The process beside the virtual routers that runs scripts, reads files, looks for processes, notifies and logs."""
