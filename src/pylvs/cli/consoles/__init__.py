"""Commands that show a running daemon live, on a terminal or in a browser."""
