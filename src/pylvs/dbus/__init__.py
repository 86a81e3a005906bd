"""D-Bus: a task of the edge process, which serves keepalived's interface of virtual routers on the system bus."""
