"""Every HTTP route, on plain data."""
