"""Probes in a process without privileges: what real servers send is parsed there, and not beside the tables."""
