"""The table: what is wanted, what is found, the fewest edits between the two, and who makes them."""
