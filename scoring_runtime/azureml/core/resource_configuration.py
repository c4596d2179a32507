"""``azureml.core.resource_configuration``: taken as it is, for nothing here reserves resources."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ResourceConfiguration:
    """Processor cores, memory in GB and graphics processors that a model was said to need."""

    cpu: float | None = None
    memory_in_gb: float | None = None
    gpu: int | None = None
