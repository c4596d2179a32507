"""The formats of bodies: each module reads one and writes it."""
