"""What `scripts/bench` measures, in small modules."""
