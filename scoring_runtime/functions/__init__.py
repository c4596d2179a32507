"""The Azure Functions host: the only place that imports ``azure.functions``."""
