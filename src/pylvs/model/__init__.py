"""The data types of LVS, without I/O: services, destinations, connections, and the Director that holds them."""
