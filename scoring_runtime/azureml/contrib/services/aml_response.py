"""``azureml.contrib.services.aml_response``."""

from ....aml_http import AMLResponse

__all__ = ["AMLResponse"]
