"""Build contexts: from a model, an entry script and their environment to an image."""
