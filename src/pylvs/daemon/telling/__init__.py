"""Who is told of what happens to servers and services: logs, scripts, mail."""
