"""Deployments on this machine: the standalone host as a process that others find."""
