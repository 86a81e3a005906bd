"""keepalived.conf: text -> tree with positions -> typed configuration, with findings that name the location."""
