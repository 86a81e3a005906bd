"""Notification of an operator by scripts, named pipes and mail."""
