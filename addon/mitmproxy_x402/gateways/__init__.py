"""What one vendor does its own way. Uses `protocol`."""
