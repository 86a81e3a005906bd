"""Health checks: the checkers, their schedule, and what their results mean for servers and quorums."""
