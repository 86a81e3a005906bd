"""The kernel's IPVS: its table and connections, how pylvs adopts them, and how it gives them back."""
