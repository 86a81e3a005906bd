"""How an operator learns of events: scripts, named pipes, mail."""
