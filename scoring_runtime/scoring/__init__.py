"""The runtime: a model or a script in its scoring threads."""
