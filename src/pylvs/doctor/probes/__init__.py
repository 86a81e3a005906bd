"""What the doctor examines, by subject: each module has functions from facts to findings."""
