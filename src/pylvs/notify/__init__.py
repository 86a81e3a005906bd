"""Notification of an operator by named pipes and mail; `system.processes.scripts` runs scripts."""
