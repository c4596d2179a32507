"""Tokens of Microsoft Entra ID, checked with the keys that their tenant publishes.

Which claims: https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference
(``iss`` and ``ver``: a token of version 1 or 2 by how the service is registered). Which keys:
https://learn.microsoft.com/entra/identity-platform/signing-key-rollover
"""

from __future__ import annotations

import asyncio
import re
from hashlib import sha256
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, KeyRefused, NotServing
from ..settings.settings import Settings
from ..telemetry.logs import log

if TYPE_CHECKING:
    import jwt

_ISSUERS_V1 = ("https://sts.windows.net", "https://sts.chinacloudapi.cn")
_LEEWAY_SECONDS = 60
_FETCH_SECONDS = 10.0
_DAY = 86400.0
_AGAIN_SECONDS, _FIRST_SECONDS = 30.0, 5.0
"""Between two fetches, whatever keys the tokens name; the latter while there are none yet."""
_KEPT_TOKENS, _KEPT_SECONDS = 1024, 300
_CALLER = re.compile(r"[\w.@-]{1,64}")


class Tokens:
    """Tokens of one tenant for these audiences.

    Args:
        tenant: its id.
        audience: the ids or URIs that tokens may be for.
        authority: the address of who issues them.
    """

    def __init__(self, tenant: str, audience: tuple[str, ...], authority: str) -> None:
        self._address = f"{authority}/{tenant}/discovery/v2.0/keys"
        first = [f"{issuer}/{tenant}/" for issuer in _ISSUERS_V1]
        self._wanted: dict[str, Any] = {
            "audience": audience,
            "issuer": [f"{authority}/{tenant}/v2.0", *first],
            "leeway": _LEEWAY_SECONDS,
            "options": {"require": ["exp", "iss", "aud"]},
        }
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = self._tried = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._callers: dict[bytes, tuple[float, str]] = {}

    @classmethod
    def of(cls, settings: Settings) -> Tokens | None:
        """Those that the settings ask for, if any.

        Raises:
            ConfigurationError: one of the two settings is missing, or PyJWT is.
        """
        tenant, audience = settings.entra_tenant, settings.entra_audience
        if not (tenant or audience):
            return None
        if not (tenant and audience):
            raise ConfigurationError(
                "SCORING_ENTRA_TENANT and SCORING_ENTRA_AUDIENCE go together: "
                f"{'the audience' if tenant else 'the tenant'} is missing."
            )
        try:
            from jwt.algorithms import has_crypto
        except ModuleNotFoundError:
            has_crypto = False
        if not has_crypto:
            raise ConfigurationError(
                "SCORING_ENTRA_TENANT needs packages that are not installed: "
                "pip install 'scoring-runtime[entra]', or unset it."
            )
        return cls(tenant, audience, settings.entra_authority)

    async def caller(self, token: bytes) -> str:
        """Which application has sent a token: ``entra:`` and its id.

        Raises:
            KeyRefused: it is no such token; the message says why.
            NotServing: the tenant's keys cannot be had.
        """
        digest = sha256(token).digest()
        until, caller = self._callers.get(digest, (0.0, ""))
        if until > time():
            return caller
        claims = await self._claims(token)
        said = claims.get("azp") or claims.get("appid") or claims.get("oid") or ""
        caller = f"entra:{said}" if _CALLER.fullmatch(str(said)) else "entra"
        if len(self._callers) >= _KEPT_TOKENS:
            self._callers.clear()
        self._callers[digest] = min(float(claims["exp"]), time() + _KEPT_SECONDS), caller
        return caller

    async def _claims(self, token: bytes) -> dict[str, Any]:
        import jwt

        try:
            key = await self._key_of(jwt.get_unverified_header(token).get("kid", ""))
            checked: dict[str, Any] = jwt.decode(token, key.key, ["RS256"], **self._wanted)
            return checked
        except jwt.ExpiredSignatureError:
            why = "it has expired"
        except jwt.InvalidAudienceError:
            why = "it is for another audience"
        except jwt.InvalidIssuerError:
            why = "another tenant has issued it"
        except jwt.PyJWTError:
            why = "it is no token of this tenant, or not valid yet"
        raise KeyRefused(f"The key, or token, is refused: {why}.")

    async def _key_of(self, name: str) -> jwt.PyJWK:
        from jwt import PyJWTError

        now = monotonic()
        due = name not in self._keys or now - self._fetched > _DAY
        if due and now - self._tried > (_AGAIN_SECONDS if self._keys else _FIRST_SECONDS):
            self._tried = now
            self._fetching = asyncio.ensure_future(self._fetch())
        if due and self._fetching is not None:
            await asyncio.shield(self._fetching)
        if not self._keys:
            raise NotServing("The keys of the tenant cannot be had; try again later.")
        if name not in self._keys:
            raise PyJWTError
        return self._keys[name]

    async def _fetch(self) -> None:
        """Have its keys, or those there were."""
        from jwt import PyJWKClient, PyJWTError

        client = PyJWKClient(self._address, cache_jwk_set=False, timeout=_FETCH_SECONDS)
        try:
            found = await asyncio.to_thread(client.get_signing_keys)
        except (PyJWTError, ValueError, OSError) as error:
            log.error("The keys of the tenant cannot be had from %s: %s", self._address, error)
            return
        self._keys = {each.key_id: each for each in found if each.key_id}
        self._fetched = monotonic()
        self._callers.clear()
