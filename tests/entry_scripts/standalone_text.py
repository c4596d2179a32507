"""A text script that answers with the length of its input."""


def init():
    pass


def run(data):
    return len(data)
