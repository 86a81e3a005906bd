"""Reconcile the table with the desired state."""
