"""The data plane from user space: its state, tables and attachments; `director` edits the tables."""
