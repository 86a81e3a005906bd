"""Bidirectional Forwarding Detection (RFC 5880): packets, the state machine of a session, sockets, all sessions."""
