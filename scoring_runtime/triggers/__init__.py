"""What becomes of a blob, and of a message, on either host."""
