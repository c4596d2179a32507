"""Logs, ids of requests, and the standard streams."""
