"""The documentation: what it shows runs, what it names exists, where it links to is there."""
