"""``azureml.contrib.services.aml_response``."""

from ....script.aml_http import AMLResponse

__all__ = ["AMLResponse"]
