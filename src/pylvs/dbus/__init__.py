"""D-Bus: the process that serves keepalived's interface of virtual routers on the system bus."""
