"""This machine's side of a load balancer: addresses, sysctls, neighbours, namespaces, and being a real server."""
