"""Keys: who may call which route.

Health is open. What scores, or tells how to, takes any key; all else, what is added later too,
takes one of an administrator. A path is told apart as the endpoint finds its route, as a whole and
decoded already: another spelling of an open one is not open.

Keys are kept and compared as digests, each with all of them, so that it takes as long whichever
character or key is wrong. A key that opened a route is taken out of its request: no script logs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

from ..errors import ConfigurationError, KeyMissing, KeyRefused, KeyTooWeak, ScoringRuntimeError
from ..messages import Headers, ScoringResponse
from ..settings.settings import Settings
from ..telemetry.metrics import UNAUTHORIZED, Metrics
from ..telemetry.request_ids import Ids
from ..values.body import query_pairs
from .entra import Tokens
from .messages import HttpRequest, Reply
from .model_routes import LOGGED, QUIET, Found
from .page import page_response, prefers_html
from .probes import METRICS, PROBES
from .watched import Watched

_LEAST_CHARACTERS, _MOST_CHARACTERS = 16, 1024
_MOST_BYTES = 64 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY = re.compile(r"[!-+\--~]*")  # printable ASCII without space and comma
_SCORING = frozenset({"/score", "/swagger.json", "/v2"})
_SCORING_BELOW = ("/score/", "/v2/models/", "/results/")
_HOW = "Authorization: Bearer KEY, x-functions-key: KEY, or ?code=KEY"
_REFUSALS: dict[type[Exception], tuple[str, bytes]] = {
    KeyMissing: ("no_key", b""),
    KeyRefused: ("wrong_key", b', error="invalid_token"'),
    KeyTooWeak: ("no_admin_key", b', error="insufficient_scope"'),
}
"""Why, as it is counted, and as RFC 6750 §3 has it."""


class Owner(NamedTuple):
    """Whose key it is: a name, which the access log has; and whether it opens all routes."""

    name: str
    is_admin: bool


class Answers(Protocol):
    """An endpoint; ``found`` answers in place of the route of the path."""

    async def __call__(self, request: HttpRequest, found: Found | None = None) -> Reply: ...
    def knows(self, path: str) -> bool: ...


class Keys:
    """The keys of the settings, those in files as the files are now.

    Raises:
        ConfigurationError: an entry is not allowed; the message has its place and not its text.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        files = [each for each in (settings.keys_file, settings.admin_keys_file) if each]
        self._watched = Watched("keys", files, self._read)

    def owner(self, sent: bytes) -> Owner | None:
        """Whose key was sent, if it is one."""
        self._watched.look()
        digest, found = sha256(sent).digest(), None
        for known, owner in self._watched.value:
            if compare_digest(known, digest):
                found = owner
        return found

    def _read(self) -> list[tuple[bytes, Owner]]:
        said = self._settings
        found: dict[bytes, Owner] = {}
        names: dict[str, str] = {}
        given = (
            ("SCORING_KEYS", said.keys, said.keys_file, False),
            ("SCORING_ADMIN_KEYS", said.admin_keys, said.admin_keys_file, True),
        )
        for setting, text, file, is_admin in given:
            for place, entry in (*_in_setting(setting, text), *_in_file(f"{setting}_FILE", file)):
                name, key = _parted(place, entry)
                digest = sha256(key).digest()
                if name in names or digest in found:
                    other = names.get(name) or names[found[digest].name]
                    what = "name" if name in names else "key"
                    raise ConfigurationError(f"{place}: the {what} is that of {other}, too.")
                names[name], found[digest] = place, Owner(name, is_admin)
        return list(found.items())


def _in_setting(setting: str, text: str) -> Iterator[tuple[str, bytes]]:
    for number, entry in enumerate(text.split(",") if text else (), 1):
        yield f"{setting}, entry {number}", entry.strip().encode("utf-8", "replace")


def _in_file(setting: str, file: str) -> Iterator[tuple[str, bytes]]:
    if not file:
        return
    try:
        with Path(file).open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"{setting} names {file}, which cannot be read: {error.strerror}."
        ) from None
    if len(content) > _MOST_BYTES:
        raise ConfigurationError(f"{setting}: {file} has more than {_MOST_BYTES} bytes.")
    lines = content.removeprefix(b"\xef\xbb\xbf").splitlines()
    there = {number: line.strip() for number, line in enumerate(lines, 1)}
    entries = {number: line for number, line in there.items() if line and line[:1] != b"#"}
    if not entries:
        raise ConfigurationError(f"{setting}: {file} has no key. Expected is one name:key a line.")
    for number, entry in entries.items():
        yield f"{setting}, {file}, line {number}", entry


def _parted(place: str, entry: bytes) -> tuple[str, bytes]:
    """Name and key; what is wrong is said without either, as they may be in the wrong order."""
    before, colon, after = entry.decode("utf-8", "replace").partition(":")
    name, key = before.strip(), after.strip()
    wrong = ""
    if not colon:
        wrong = "there is no colon: expected is name:key"
    elif not _NAME.fullmatch(name):
        wrong = "the name before the colon is not 1 to 64 letters, digits, '.', '_' or '-'"
    elif not _KEY.fullmatch(key):
        wrong = "the key has a space, a comma or a character that is not ASCII"
    elif not _LEAST_CHARACTERS <= len(key) <= _MOST_CHARACTERS:
        bounds = f"{_LEAST_CHARACTERS} to {_MOST_CHARACTERS}"
        wrong = f"the key has {len(key)} characters; allowed are {bounds}"
    if wrong:
        raise ConfigurationError(f"{place}: {wrong}.")
    return name, key.encode()


def sent_keys(request: HttpRequest) -> list[bytes]:
    """What was sent as a key, in each of the three ways."""
    found = [key for line in request.headers if (key := _key_in(line))]
    return found + [value.encode() for value in _codes(request.query)]


def _key_in(line: tuple[bytes, bytes]) -> bytes:
    name, value = line
    if name == b"x-functions-key":
        return value
    is_bearer = name == b"authorization" and value[:7].lower() == b"bearer "
    return value[7:].strip() if is_bearer else b""


def _may_be_token(sent: bytes) -> bool:
    return sent.count(b".") == 2


def _codes(query: bytes) -> list[str]:
    return [value for name, value in query_pairs(query) if name == "code"] if query else []


def without_codes(query: bytes) -> bytes:
    """The query less the keys in it, whoever asks for them: the host of a function app does too."""
    return b"&".join(part for part in query.split(b"&") if not _codes(part))


def _without(request: HttpRequest, used: Collection[bytes]) -> HttpRequest:
    headers: Headers = [line for line in request.headers if _key_in(line) not in used]
    kept = (
        part for part in request.query.split(b"&")
        if not any(value.encode() in used for value in _codes(part))
    )  # fmt: skip
    return request._replace(headers=headers, query=b"&".join(kept))


class Guard:
    """An endpoint that answers those who may call it.

    Args:
        endpoint: answers.
        keys: that open it.
        tokens: that do so too, if any.
        settings: which routes are open.
        metrics: count what is refused.
    """

    def __init__(
        self,
        endpoint: Answers,
        keys: Keys,
        tokens: Tokens | None,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._endpoint, self._keys, self._tokens = endpoint, keys, tokens
        self._open = PROBES | ({METRICS} if settings.metrics_open else frozenset())
        self._answers_preflights = bool(settings.cors_origins)
        metrics.parts.add("keys")
        self._count = {why: metrics.number(UNAUTHORIZED, why) for why, _ in _REFUSALS.values()}

    async def __call__(self, request: HttpRequest) -> Reply:
        if request.path in self._open:
            return await self._endpoint(request)
        if self._answers_preflights and _is_preflight(request):
            return await self._endpoint(request, _PREFLIGHT)
        try:
            owners = self._owners(request)
            if not owners and self._tokens is not None:
                owners = await self._token_owners(request, self._tokens)
            owner = self._admitted(request, owners)
        except ScoringRuntimeError as error:
            return await self._refuse(request, error)
        if request.progress is not None:
            request.progress.caller = owner.name
        return await self._endpoint(_without(request, owners))

    def refuses(self, head: HttpRequest) -> bool:
        """Whether a request is refused by its head already; its body need not be read."""
        if head.path in self._open:
            return False
        try:
            owners = self._owners(head)
            if not owners and self._tokens is not None and any(map(_may_be_token, sent_keys(head))):
                return False
            self._admitted(head, owners)
        except ScoringRuntimeError:
            return True
        return False

    def _owners(self, request: HttpRequest) -> dict[bytes, Owner]:
        """The keys among what was sent."""
        found = {sent: self._keys.owner(sent) for sent in sent_keys(request)}
        return {sent: owner for sent, owner in found.items() if owner is not None}

    async def _token_owners(self, request: HttpRequest, tokens: Tokens) -> dict[bytes, Owner]:
        bearers = (_key_in(line) for line in request.headers if line[0] == b"authorization")
        sent = next(filter(_may_be_token, bearers), b"")
        return {sent: Owner(await tokens.caller(sent), False)} if sent else {}

    def _admitted(self, request: HttpRequest, owners: dict[bytes, Owner]) -> Owner:
        """Who may have it.

        Raises:
            KeyMissing, KeyRefused, KeyTooWeak: nobody.
        """
        if not owners:
            if sent_keys(request):
                raise KeyRefused(f"The key is none of this service. It is sent as {_HOW}.")
            raise KeyMissing(f"A key is needed here. It is sent as {_HOW}.")
        owner = max(owners.values(), key=lambda each: each.is_admin)
        path = request.path
        scores = path in _SCORING or path.startswith(_SCORING_BELOW)
        if owner.is_admin or scores or not self._endpoint.knows(path):
            return owner
        raise KeyTooWeak("An administrator's key is needed here (SCORING_ADMIN_KEYS).")

    async def _refuse(self, request: HttpRequest, error: ScoringRuntimeError) -> Reply:
        accept = dict(request.headers).get(b"accept", b"").decode("latin-1")
        # The page asks for the key, and has nothing of the service in it.
        is_page = request.path == "/docs" and self._endpoint.knows("/docs")
        shows_page = is_page and prefers_html(accept)

        async def refused(request: HttpRequest, ids: Ids) -> ScoringResponse:
            if shows_page:
                return page_response(401, zipped=False)
            raise error

        reply = await self._endpoint(request, (refused, None, LOGGED))
        if type(error) in _REFUSALS:
            why, code = _REFUSALS[type(error)]
            self._count[why].add()
            reply.headers.append((b"www-authenticate", b'Bearer realm="scoring-runtime"' + code))
        return reply


def _is_preflight(request: HttpRequest) -> bool:
    """A browser's question before a request, which it sends without a key (Fetch standard)."""
    asked = {name for name, _ in request.headers}
    return request.method == "OPTIONS" and asked >= {b"origin", b"access-control-request-method"}


async def _preflight(request: HttpRequest, ids: Ids) -> ScoringResponse:
    return ScoringResponse(200, b"", (), -1)


_PREFLIGHT: Found = (_preflight, None, QUIET)
MakeGuard: TypeAlias = Callable[[Answers, Metrics], Guard]


def guarding(settings: Settings) -> MakeGuard | None:
    """What guards an endpoint; None when nobody needs a key.

    Raises:
        ConfigurationError: a key or a file of keys is not allowed, or what tokens need is missing.
    """
    if not settings.asks_for_keys:
        return None
    keys, tokens = Keys(settings), Tokens.of(settings)
    return lambda endpoint, metrics: Guard(endpoint, keys, tokens, settings, metrics)
