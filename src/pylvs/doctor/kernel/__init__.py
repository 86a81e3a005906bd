"""What the kernel, and the tools that print its settings, report of this host. Nothing here changes it."""
