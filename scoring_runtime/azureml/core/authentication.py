"""``azureml.core.authentication``: a folder asks for no sign-in, so all of these do nothing."""

from __future__ import annotations

from typing import Any


class AbstractAuthentication:
    """Takes what its old namesake takes and keeps nothing of it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def get_authentication_header(self) -> dict[str, str]:
        """No header: a local service asks for none."""
        return {}


class InteractiveLoginAuthentication(AbstractAuthentication):
    """Opens no browser."""


class AzureCliAuthentication(AbstractAuthentication):
    """Asks no Azure CLI."""


class ServicePrincipalAuthentication(AbstractAuthentication):
    """Sends no secret anywhere."""


class MsiAuthentication(AbstractAuthentication):
    """Asks no identity service."""
