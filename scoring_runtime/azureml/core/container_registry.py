"""``azureml.core.container_registry``."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ContainerRegistry:
    """Where an image lies; everything is empty for one that was built here.

    The password is never written into a file or an image.
    """

    address: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
