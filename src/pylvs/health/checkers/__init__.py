"""One file a checker: each asks one real server one question."""
