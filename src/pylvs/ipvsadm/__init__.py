"""The `ipvsadm` command: the arguments, the output and the exit statuses of ipvsadm 1.31."""
