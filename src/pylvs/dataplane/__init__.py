"""libbpf, the maps and their layout, state, attachment; and `director`, the one object that edits the tables."""
