"""How the Redis server of the settings is reached; the client that scripts may use."""

from __future__ import annotations

import importlib
import re
from typing import Any

from ..errors import ConfigurationError
from ..settings.settings import Settings

MEMORY = "memory://"
# https://learn.microsoft.com/azure/azure-cache-for-redis/cache-azure-active-directory-for-authentication
_AZURE_HOSTS = (".redis.cache.windows.net", ".redis.azure.net", ".redisenterprise.cache.azure.net")
_SCOPE = "https://redis.azure.com/.default"
# redis-py takes more, and reads it otherwise than it was meant.
_URL = re.compile(
    r"(rediss?|rediss?(?P<cluster>\+cluster))://([^\s/?#]*@)?([\w.-]+|\[[\da-f:.]+\])(:[1-9]\d*)?"
    r"(?(cluster)/?0?(?!.*[?&]db=)|(/\d*)?)(\?[^\s#]*)?|unix://[^\s#]+",
    re.IGNORECASE | re.ASCII,
)
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_settings: Settings | None = None
_client: Any = None


def make(settings: Settings, module_name: str, **options: Any) -> Any:
    """A client of ``redis`` or ``redis.asyncio`` for the settings; it connects at first use.

    Raises:
        ConfigurationError: redis is not installed, or the URL cannot be read.
    """
    url, cluster = settings.cache_url, False
    if url:
        parts = _URL.fullmatch(url)
        if parts is None:
            raise _no_url()
        cluster = bool(parts["cluster"])
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError:
        raise ConfigurationError(
            "CACHE_URL or REDIS_HOST is set, which needs redis: pip install "
            "'scoring-runtime[redis]'"
        ) from None
    kind = module.RedisCluster if cluster else module.Redis
    if not url:
        return kind(**_options(settings), **options)
    try:
        made = kind.from_url(url.replace("+cluster", "", 1), **options)
        if not cluster:  # which of its options there are, it would say when it connects
            made.connection_pool.connection_class(**made.connection_pool.connection_kwargs)
        return made
    except (ValueError, TypeError, module.RedisError):
        raise _no_url() from None


def _no_url() -> ConfigurationError:
    # Without what was given: it may hold the password.
    return ConfigurationError(
        "CACHE_URL (or REDIS_URL) is not a URL of a cache. Allowed: memory://, redis://host:6379, "
        "rediss://user:password@host:6380/0, and redis+cluster://… or rediss+cluster://… without a "
        "database; in a password %23 for #, %2F for / and %3F for ?; after ? options of redis-py. "
        "(environment variable: CACHE_URL)"
    )


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
    if not _HOST.fullmatch(settings.redis_host):
        raise ConfigurationError(
            "REDIS_HOST is not the name of a host. Allowed: a name or an IP address; the port is "
            "REDIS_PORT. (environment variable: REDIS_HOST)"
        )
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
