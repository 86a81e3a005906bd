"""What the daemon needs of its host: files, tables, addresses, scripts, the service manager."""
