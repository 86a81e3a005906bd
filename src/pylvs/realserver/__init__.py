"""Make this machine a real server: the VIP on lo, no ARP for it, decapsulation."""
