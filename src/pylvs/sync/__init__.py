"""Connection synchronisation: the sync daemons of IPVS's protocol (IPVS-SEMANTICS 10)."""
