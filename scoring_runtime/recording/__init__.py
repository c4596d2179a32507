"""Requests and answers kept as files; what scripts collect; reading them again."""
