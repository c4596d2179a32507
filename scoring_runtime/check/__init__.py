"""What will happen, before it does: a script or a model tried in a process of its own."""
