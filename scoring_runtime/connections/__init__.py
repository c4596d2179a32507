"""Redis and Service Bus, named by settings."""
