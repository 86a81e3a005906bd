"""Commands for rules that packets are compared with: firewall marks, and the clients of services."""
