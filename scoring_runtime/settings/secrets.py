"""Secrets, found by their shape or by the name of what they are given to.

What is told apart from a secret: the key of Azurite, which is public, connection strings of
Application Insights, which only allow to send, and placeholders such as ``<key>``.
Shapes: https://learn.microsoft.com/azure/storage/common/storage-configure-connection-string,
https://learn.microsoft.com/azure/service-bus-messaging/service-bus-sas and
https://learn.microsoft.com/rest/api/storageservices/create-service-sas.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote_plus

# The same everywhere, and public.
# https://learn.microsoft.com/azure/storage/common/storage-use-azurite#well-known-storage-account-and-key
AZURITE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_TOKEN_LENGTH = 1000
_QUOTES = r"""["'\\]{0,4}"""
_VALUE = r"""([^;,&\s"'`\\]+)"""
_STORAGE = "a storage account key (AccountKey=…)"
_SHARED = "a shared access key (SharedAccessKey=…)"
_SAS = "a SAS token (sig=…)"
_REDIS = "a Redis password"
_URL, _KEY = "a password in a URL (//user:…@)", "a private key"
_IS = rf"""{_QUOTES}\s*[:=]\s*(?:[a-z]{{1,2}}(?=["']))?{_QUOTES}"""
_USER = r"""://[^\s:@/"'`]{0,99}:(?!\d+/)"""
_KINDS = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        (_STORAGE, rf"(?i)(?:key|credential){_IS}([A-Za-z0-9+/]{{86}}==)"),
        (_SHARED, rf"(?i)SharedAccessKey{_IS}{_VALUE}"),
        (_SAS, rf"(?<![A-Za-z0-9_])sig={_VALUE}"),
        (_REDIS, rf"""(?i)rediss?(?:\+[a-z]+)?{_USER}([^\s@"'`]{{1,300}})@"""),
        (_REDIS, rf"""(?i)redis[^\s"']{{0,300}},\s*password={_VALUE}"""),
        (_URL, rf"""(?i)(?<!redis)(?<!rediss)(?<!cluster){_USER}([^\s@/"'`]{{1,300}})@"""),
        (_KEY, r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?=\s*$|\\[nr])"),
        (_KEY, r"^PuTTY-User-Key-File-\d"),
        ("an AWS secret key", rf"(?i)aws_secret_access_key{_IS}([A-Za-z0-9/+]{{40}})"),
        ("a token of a registry", rf":_(?:authToken|auth|password)\s*=\s*{_VALUE}"),
        ("a Kubernetes login", r"^current-context:\s*\S|client-key-data:\s*[\w+/]{9}"),
    )
)
_MARKS = re.compile(r"key|credential|sig=|redis|://|:_|^current-", re.IGNORECASE)
_OTHER_FIELDS = re.compile(r"(?<![A-Za-z0-9_])(?:se|si|sv|skn)=")

# Signs of a template, of code that fills one in, or of something left out.
_TEMPLATE = re.compile(r"^[<\[$]|[{}…]|\.\.\.|^%\w+%$|%s|%\(")
_WORDS = re.compile(
    r"(?:^|[-_. ])(?:your|my|some|the|example|sample|dummy|test|fake|placeholder|changeme|change|"
    r"insert|replace|redacted|removed|secret|password|passwd|pass|pwd|key|value|token|sas|todo|"
    r"none|null|guest)(?=$|[-_. ])|^(?:your|my|the|some)[a-z]*(?:key|password|token|secret|sig)$",
    re.IGNORECASE,
)
_SECRET_WORD = re.compile(
    r"(?:CREDENTIAL|KEY|PASSWORD|SECRET|TOKEN)S?|PASSPHRASE|PASSWD|PWD|SAS", re.IGNORECASE
)
_NAMES_A_FILE = "SCORING_TLS_KEY"
_SWITCHES = {"true", "false", "yes", "no", "on", "off"}
_ASSIGNED = re.compile(
    r"(?i)((?:account_?key|access_?key|access_?signature|client_?secret|api_?key|passw(?:or)?d|pwd)"
    rf"{_QUOTES}\s*[:=]\s*{_QUOTES}){_VALUE}"
)
# Whatever looks like one, placeholders too: rather too much is hidden than too little.
_HIDDEN = (
    _ASSIGNED,
    re.compile(rf"(?i)((?<![a-z0-9_])(?:sig|code|(?:access_)?token)=)(?!=){_VALUE}"),
    re.compile(rf"""({_USER})[^\s"'`]{{1,300}}(?=@)"""),
    re.compile(r"(?<![A-Za-z0-9+/=])()(?:[A-Za-z0-9+/]{86}==|[A-Za-z0-9+/]{43}=)(?![\w=])"),
)

_KEYS_IN_QUERIES = ("code", "sig")

MAX_BYTES = 1 << 20
"""Larger files are data, and are not searched."""

_PRIVATE, _LOGIN = "a private key", "a login"
_FILE_NAMES = {
    **dict.fromkeys(("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "id_*_sk"), _PRIVATE),
    **dict.fromkeys(("*.ppk", "*.p12", "*.pfx"), _PRIVATE),
    **dict.fromkeys((".netrc", "_netrc", ".pgpass", ".pypirc", ".git-credentials"), _LOGIN),
    **dict.fromkeys((".dockercfg", ".docker/config.json", ".aws/credentials"), _LOGIN),
    **dict.fromkeys((".kube/config", "kubeconfig*", "*.kubeconfig"), _LOGIN),
}
"""Files that are refused whatever they hold, by the end of their path."""
_VARIABLE_FILES = ("*.env", "*.env.*", "*.envrc", "*.tfvars")
_VARIABLE = re.compile(r"""\s*(?:export\s+)?(\w+)\s*=\s*["']?([^\s"'#]+)""")
_START_BYTES = 8192


def masked(text: str) -> str:
    """The text with ``***`` for what looks like a secret in it; for errors, logs and tables."""
    for pattern in _HIDDEN:
        text = pattern.sub(r"\1***", text)
    return text


def masked_query(query: str) -> str:
    """The query of a URL with ``***`` for the values of keys: ``code=``, and names as for
    :func:`is_secret`."""
    pairs = (each.partition("=") for each in query.split("&"))
    return masked(
        "&".join(
            name + "=" * bool(equals) + _or_hidden(name, value) for name, equals, value in pairs
        )
    )


def _or_hidden(name: str, value: str) -> str:
    plain = unquote_plus(name).strip()
    hidden = plain.lower() in _KEYS_IN_QUERIES or _is_secret_name(plain.replace("-", "_"))
    return "***" if value and hidden else value


def is_secret(name: str, value: str) -> bool:
    """Whether an environment variable is a secret, by its name or by its value.

    Names are those whose last word is KEY, SECRET, PASSWORD, TOKEN, SAS and the like, in
    ``UPPER_CASE`` or ``camelCase``, and those that end in ``ConnectionString``. Without a secret
    are switches (``true``), what Application Insights needs, and the file that ``SCORING_TLS_KEY``
    names.
    """
    if "insights" in name.lower() or "instrumentationkey=" in value.lower():
        return next(kinds_in(value), None) is not None
    if _is_secret_name(name) and not _is_plain(name, value.strip()):
        return True
    if any(is_real(match[2]) for match in _ASSIGNED.finditer(value)):
        return True
    return next(kinds_in(value), None) is not None


def _is_plain(name: str, value: str) -> bool:
    """A switch, the name of a file, or a number of tokens, as in ``MAX_TOKENS=512``."""
    if name == _NAMES_A_FILE:
        return True
    return value.lower() in _SWITCHES or (value.isdecimal() and name.lower().endswith("tokens"))


def _is_secret_name(name: str) -> bool:
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    plain = "".join(words).upper()
    return plain.endswith("CONNECTIONSTRING") or bool(words and _SECRET_WORD.fullmatch(words[-1]))


def kinds_in(text: str) -> Iterator[str]:
    """The kind of each secret in the text."""
    if not _MARKS.search(text):
        return
    for kind, pattern in _KINDS:
        for match in pattern.finditer(text):
            real = not pattern.groups or is_real(match[1])
            if real and (kind != _SAS or _is_sas_token(text, match.start())):
                yield kind


def _is_sas_token(text: str, position: int) -> bool:
    """Whether ``sig=`` stands among the other fields of a token, up to the next quote or space."""
    before = re.split(r"[\s\"'`]", text[max(0, position - _TOKEN_LENGTH) : position])[-1]
    after = re.split(r"[\s\"'`]", text[position : position + _TOKEN_LENGTH])[0]
    return bool(_OTHER_FIELDS.search(before + after))


def is_real(value: str) -> bool:
    """Whether a value is none of the placeholders and words that examples have in its place."""
    bare = value.rstrip("=")
    few = len(set(bare)) <= (3 if len(bare) >= 16 else 1)
    return not (few or value == AZURITE_KEY or _TEMPLATE.search(value) or _WORDS.search(value))


# --- in files -------------------------------------------------------------------------------------


def in_file(name: str, path: Path) -> Iterator[str]:
    """A clause for each secret in a file, with its place and its kind, never its text.

    Text files of up to :data:`MAX_BYTES` bytes are searched line by line, so what is put together
    from several lines is not found.

    Args:
        name: what the clause calls it, a path with /; by it some files are secrets as a whole.
        path: where it is.

    Raises:
        OSError: it cannot be read.
    """

    parts = name.lower().split("/")
    for pattern, kind in _FILE_NAMES.items():
        end = "/".join(parts[-1 - pattern.count("/") :])
        if fnmatchcase(end, pattern) and not end.endswith(".py"):
            yield f"{name} is {kind}"
            return
    variables = any(fnmatchcase(parts[-1], each) for each in _VARIABLE_FILES)
    yield from (f"{name}:{line} holds {kind}" for line, kind in _in(path, variables))


def _kinds(line: str, variables: bool) -> Iterator[str]:
    yield from kinds_in(line)
    found = _VARIABLE.match(line) if variables else None
    if found and is_secret(*found.groups()) and is_real(found[2]):
        yield f"a secret ({found[1]})"


def _in(path: Path, variables: bool) -> Iterator[tuple[int, str]]:
    """The line and the kind of each secret in a text file, a kind once a line."""
    encoding = _encoding(path)
    if not encoding:
        return
    with path.open(encoding=encoding, errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            yield from ((number, kind) for kind in dict.fromkeys(_kinds(line, variables)))


def _encoding(path: Path) -> str:
    """How to read the file; empty if it is none of text, or too large."""
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
        if file.seek(0, 2) > MAX_BYTES:
            return ""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "" if b"\0" in start else "utf-8-sig"
