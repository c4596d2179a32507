"""Batch inference: score what is there, by the claims and receipts of the blob trigger, and end."""
