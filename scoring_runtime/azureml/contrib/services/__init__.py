"""``azureml.contrib.services``: what an entry script with ``@rawhttp`` imports."""
