# mypy: ignore-errors
"""Undecorated: fails for `fail`, answers `own` with a CORS header of its own."""

from azureml.contrib.services.aml_response import AMLResponse


def init():
    pass


def run(data):
    if data == "fail":
        raise ValueError(data)
    return AMLResponse("x", 200, {"Access-Control-Allow-Origin": "*"}) if data == "own" else data
