"""What a service is: its state, addresses and times."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ...local_services.record import Record
from ...local_services.service import FAILED, LocalService

DELETED = "Deleted"


class Description:
    """The attributes of a service on this machine."""

    compute_type = "Local"
    auth_enabled = token_auth_enabled = False
    tags: Mapping[str, str] | None = None
    properties: Mapping[str, str] | None = None
    image_id: str | None = None

    workspace: object
    name: str
    _service: LocalService
    _deleted: bool

    @property
    def state(self) -> str:
        """``Transitioning``, ``Healthy``, ``Unhealthy``, ``Failed``, or ``Deleted``."""
        return DELETED if self._deleted else self._service.state

    @property
    def error(self) -> str | None:
        """Why it has failed, as the end of its log; None if it has not."""
        return self._service.cause() if self.state == FAILED else None

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._record.port

    @property
    def base_url(self) -> str:
        """``http://localhost:PORT``."""
        return self._service.url

    @property
    def scoring_uri(self) -> str:
        """``http://localhost:PORT/score``."""
        return f"{self.base_url}/score"

    @property
    def swagger_uri(self) -> str:
        """``http://localhost:PORT/swagger.json``."""
        return f"{self.base_url}/swagger.json"

    @property
    def created_time(self) -> datetime:
        """When it was deployed."""
        return datetime.fromisoformat(self._record.created)

    @property
    def updated_time(self) -> datetime:
        """When it was started last."""
        return datetime.fromisoformat(self._record.updated)

    @property
    def _record(self) -> Record:
        return self._service.record

    def serialize(self) -> dict[str, Any]:
        """What is known of it, as JSON has it."""
        return {
            "name": self.name,
            "tags": self.tags,
            "properties": self.properties,
            "state": self.state,
            "createdTime": self.created_time.isoformat(),
            "updatedTime": self.updated_time.isoformat(),
            "error": self.error,
            "computeType": self.compute_type,
            "workspaceName": getattr(self.workspace, "name", None),
            "imageId": self.image_id,
            "scoringUri": self.scoring_uri,
            "swaggerUri": self.swagger_uri,
            "port": self.port,
        }

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"{kind}(workspace={self.workspace!r}, name={self.name!r}, port={self.port})"


def has_model(record: Record, model_name: str | None, model_id: str | None) -> bool:
    """Whether the service has a model of this name and of this ``name:version``; None is any."""
    models = record.specification.models
    names = {each.name for each in models}
    ids = {f"{each.name}:{each.version}" for each in models}
    return model_name in (None, *names) and model_id in (None, *ids)
