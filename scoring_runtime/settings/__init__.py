"""What a host is told by its environment."""
