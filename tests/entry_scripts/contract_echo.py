"""Undecorated, and quick to start: gives its input back; for `nan`, numbers that JSON lacks."""

from math import inf, nan


def init():
    pass


def run(data):
    return {"a": [inf, -inf], "b": nan} if data == "nan" else data
