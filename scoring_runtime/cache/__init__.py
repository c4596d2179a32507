"""Results and inputs that are kept, in memory or in Redis."""
