"""How the Redis server of the settings is reached; the client that scripts may use."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from .errors import ConfigurationError
from .settings import Settings

MEMORY = "memory://"
# https://learn.microsoft.com/azure/azure-cache-for-redis/cache-azure-active-directory-for-authentication
_AZURE_HOSTS = (".redis.cache.windows.net", ".redis.azure.net", ".redisenterprise.cache.azure.net")
_SCOPE = "https://redis.azure.com/.default"
_SCHEMES = ("redis", "rediss", "redis+cluster", "rediss+cluster", "unix")
_settings: Settings | None = None
_client: Any = None


class Target(NamedTuple):
    """A Redis server: a URL, or the options of a client; ``cluster`` asks for a cluster client."""

    url: str
    options: dict[str, Any]
    cluster: bool


def target(settings: Settings) -> Target:
    """Where the settings say that Redis is.

    Raises:
        ConfigurationError: the URL is none of Redis, or a package is missing.
    """
    url = settings.cache_url
    if not url:
        return Target("", _options(settings), False)
    scheme = url.partition("://")[0].lower()
    if scheme not in _SCHEMES or "://" not in url:
        raise ConfigurationError(
            "CACHE_URL (or REDIS_URL) is not a URL of a cache. Allowed: memory://, "
            "redis://host:6379, rediss://user:password@host:6380, redis+cluster://…, "
            "rediss+cluster://…. (environment variable: CACHE_URL)"
        )
    return Target(url.replace("+cluster", "", 1), {}, scheme.endswith("+cluster"))


def make(settings: Settings, module_name: str, **options: Any) -> Any:
    """A client of ``redis`` or ``redis.asyncio`` for the settings; it connects at first use.

    Raises:
        ConfigurationError: redis is not installed, or the URL cannot be read.
    """
    found = target(settings)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError:
        raise ConfigurationError(
            "CACHE_URL or REDIS_HOST is set, which needs redis: pip install "
            "'scoring-runtime[redis]'"
        ) from None
    kind = module.RedisCluster if found.cluster else module.Redis
    try:
        if found.url:
            return kind.from_url(found.url, **options)
        return kind(**found.options, **options)
    except (ValueError, TypeError):
        # What it says may hold the password.
        raise ConfigurationError(
            "CACHE_URL (or REDIS_URL) cannot be read as a URL. Allowed: "
            "rediss://user:password@host:6380/0. (environment variable: CACHE_URL)"
        ) from None


def use(settings: Settings) -> None:
    """Set what :func:`client_for_scripts` connects to; the runtime does it before ``init()``."""
    global _settings, _client
    _settings, _client = settings, None


def client_for_scripts() -> Any:
    """The synchronous ``redis.Redis`` for scripts; None without a Redis server in the settings."""
    global _client
    if _settings is None or not _settings.cached or _settings.cache_url.startswith(MEMORY):
        return None
    if _client is None:
        _client = make(_settings, "redis")
    return _client


def _options(settings: Settings) -> dict[str, Any]:
    port = settings.redis_port or (6380 if settings.redis_ssl else 6379)
    options: dict[str, Any] = {"host": settings.redis_host, "port": port, "ssl": settings.redis_ssl}
    if settings.redis_password:
        options["password"] = settings.redis_password
        if settings.redis_username:
            options["username"] = settings.redis_username
    elif settings.redis_host.endswith(_AZURE_HOSTS):
        options["credential_provider"] = _token_provider(settings.redis_username)
    return options


def _token_provider(username: str) -> Any:
    try:
        from azure.identity import DefaultAzureCredential
        from redis import CredentialProvider
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"REDIS_PASSWORD is not set, and signing in with an identity needs {error.name}: pip "
            "install azure-identity redis. (environment variable: REDIS_PASSWORD)"
        ) from None

    class EntraToken(CredentialProvider):  # type: ignore[misc, unused-ignore]
        """A new token for each connection; azure-identity keeps it as long as it is valid."""

        def __init__(self) -> None:
            self._credential = DefaultAzureCredential()

        def get_credentials(self) -> tuple[str, str]:
            """User and token."""
            token = self._credential.get_token(_SCOPE).token
            return username or _object_id(token), token

    return EntraToken()


def _object_id(token: str) -> str:
    """The ``oid`` claim: the user name that Azure's Redis expects with a token."""
    import base64
    import json

    claims = token.split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["oid"])
