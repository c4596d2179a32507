"""The version of this package, and where it is described."""

from __future__ import annotations

VERSION = "0.2.0"
DOCUMENTATION = "https://scoring-runtime.readthedocs.io/"
