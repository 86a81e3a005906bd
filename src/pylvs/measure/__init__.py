"""What packets cost: the harness and the run statistics of attached programs."""
