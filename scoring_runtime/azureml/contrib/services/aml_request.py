"""``azureml.contrib.services.aml_request``."""

from ....script.aml_http import AMLRequest, rawhttp

__all__ = ["AMLRequest", "rawhttp"]
