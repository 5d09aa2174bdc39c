"""What people see: results as text, bars while something takes long."""
