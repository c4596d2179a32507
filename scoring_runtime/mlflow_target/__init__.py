"""The deployment target for MLflow."""
