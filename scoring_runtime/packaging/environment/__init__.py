"""The environment of a package: what pip's, conda's and Azure ML's files ask for."""
