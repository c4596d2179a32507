"""Models that score without a script, by kind."""
