"""run() that does nothing: what is left is the server."""


def init() -> None:
    """Nothing to load."""


def run(data: str) -> int:
    """Always 1."""
    return 1
