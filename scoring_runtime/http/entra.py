"""Tokens of Microsoft Entra ID, checked with the keys that their tenant publishes.

Which claims: https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference
(``iss`` and ``ver``: a token of version 1 or 2 by how the service is registered). Which keys:
https://learn.microsoft.com/entra/identity-platform/signing-key-rollover
"""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from time import monotonic, time
from typing import Any

from ..errors import ConfigurationError, KeyRefused, NotServing
from ..settings.settings import Settings
from ..telemetry.logs import log

_ISSUERS_V1 = ("https://sts.windows.net", "https://sts.chinacloudapi.cn")
_LEEWAY_SECONDS, _FETCH_SECONDS, _AGAIN_SECONDS, _DAY = 60, 10, 5.0, 86400
_KEPT_TOKENS, _KEPT_SECONDS = 1024, 300
_AUTHORITY = re.compile(r"(https://[\w.-]+|http://(127\.0\.0\.1|localhost))(:\d+)?")
_CALLER = re.compile(r"[\w.@-]{1,64}")


class Tokens:
    """Tokens of one tenant for these audiences; PyJWT keeps its keys for a day, and asks for new
    ones at most twice a minute.

    Args:
        tenant: its id.
        audience: the ids or URIs that tokens may be for.
        authority: the address of who issues them.
    """

    def __init__(self, tenant: str, audience: tuple[str, ...], authority: str) -> None:
        from jwt import PyJWKClient

        self._address = f"{authority}/{tenant}/discovery/v2.0/keys"
        self._client = PyJWKClient(self._address, lifespan=_DAY, timeout=_FETCH_SECONDS)
        first = [f"{issuer}/{tenant}/" for issuer in _ISSUERS_V1]
        self._wanted: dict[str, Any] = {
            "audience": audience,
            "issuer": [f"{authority}/{tenant}/v2.0", *first],
            "leeway": _LEEWAY_SECONDS,
            "options": {"require": ["exp", "iss", "aud"]},
        }
        self._thread = ThreadPoolExecutor(1, "scoring-entra")  # to fetch keys takes its time
        self._failed = float("-inf")
        self._callers: dict[bytes, tuple[float, str]] = {}

    @classmethod
    def of(cls, settings: Settings) -> Tokens | None:
        """Those that the settings ask for, if any.

        Raises:
            ConfigurationError: one of the two settings is missing, or PyJWT is; or the authority
                has no https address.
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
        authority = settings.entra_authority.rstrip("/")
        authority = authority if "://" in authority else f"https://{authority}"  # as azure-identity
        if not _AUTHORITY.fullmatch(authority):
            raise ConfigurationError(
                f"SCORING_ENTRA_AUTHORITY, or AZURE_AUTHORITY_HOST, is {authority!r}. Allowed is "
                "an https address without a path."
            )
        return cls(tenant, audience, authority)

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
        check = partial(self._claims, token)
        claims = await asyncio.get_running_loop().run_in_executor(self._thread, check)
        said = claims.get("azp") or claims.get("appid") or claims.get("oid") or ""
        caller = f"entra:{said}" if _CALLER.fullmatch(str(said)) else "entra"
        if len(self._callers) >= _KEPT_TOKENS:
            self._callers.clear()
        self._callers[digest] = min(float(claims["exp"]), time() + _KEPT_SECONDS), caller
        return caller

    def _claims(self, token: bytes) -> dict[str, Any]:
        import jwt

        if monotonic() - self._failed < _AGAIN_SECONDS:
            raise NotServing("The keys of the tenant cannot be had; try again later.")
        try:
            key = self._client.get_signing_key(jwt.get_unverified_header(token).get("kid", ""))
            claims: dict[str, Any] = jwt.decode(token, key.key, ["RS256"], **self._wanted)
            return claims
        except (jwt.PyJWKClientConnectionError, OSError, ValueError) as error:
            self._failed = monotonic()
            log.error("The keys of the tenant cannot be had from %s: %s", self._address, error)
            raise NotServing("The keys of the tenant cannot be had; try again later.") from None
        except jwt.ExpiredSignatureError:
            why = "it has expired"
        except jwt.InvalidAudienceError:
            why = "it is for another audience"
        except jwt.InvalidIssuerError:
            why = "another tenant has issued it"
        except jwt.PyJWTError:
            why = "it is no token of this tenant, or not valid yet"
        raise KeyRefused(f"The token is refused: {why}.")
