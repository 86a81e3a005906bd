"""Measurements: what a packet and a command cost, beside what they may cost. `python -m bench` prints them."""
