"""Load balancers to look at: clients, routers, directors and real servers as network namespaces of one machine."""
