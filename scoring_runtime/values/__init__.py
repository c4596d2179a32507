"""Values between text and Python: bodies, arrays, inputs by name, results."""
