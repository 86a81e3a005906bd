"""`pylvs run`: keeps the table as the configuration and the health checks want it, and answers the operator."""
