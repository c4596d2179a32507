"""The standalone host: the same triggers without Azure Functions, on a laptop or in a container."""
