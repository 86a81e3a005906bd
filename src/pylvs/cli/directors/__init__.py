"""Commands about two directors: copies of connections, and sync daemons."""
