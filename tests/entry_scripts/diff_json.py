# mypy: ignore-errors
"""Undecorated, as most scripts are: parses its text and raises for what it does not expect."""

import json


def init():
    global factor
    factor = 2


def run(raw_data):
    data = json.loads(raw_data)["data"]
    return {"result": [factor * value for value in data]}
