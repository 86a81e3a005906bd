"""The daemon's API: HTTP with JSON on a UNIX socket for root. The client is here, too."""
