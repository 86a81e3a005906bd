"""Rules that packets are compared with: for firewall marks, and for the clients of services."""
