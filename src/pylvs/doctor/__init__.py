"""`pylvs doctor`: find the cause why clients get no answer, by facts of this host and by probes on the wire."""
