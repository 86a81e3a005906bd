"""`pylvs run`: checks real servers, reconciles the table with the configuration, and serves the API."""
