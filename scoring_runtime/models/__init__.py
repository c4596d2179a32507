"""Models on disk: the layout, what they are, the registry."""
