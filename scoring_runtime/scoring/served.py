"""What is served: the entry script, or each model in the model folder without one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from ..errors import ConfigurationError, UnknownModel
from ..messages import Headers
from ..models import folder as models
from ..models import in_force
from ..models.kinds import candidates
from ..script import entry_script
from ..settings.settings import Settings

_SCRIPT_NAME = "model"


class Served(NamedTuple):
    """One model; ``folder`` is None when the entry script scores."""

    name: str
    version: str
    folder: Path | None = None

    @property
    def identity(self) -> str:
        """``name:version``, as Azure ML writes it."""
        return f"{self.name}:{self.version}"

    @property
    def lines(self) -> Headers:
        """The headers of an answer that say it, a name that is no ASCII as in an URL."""
        name, version = map(shown_in_headers, self[:2])
        return ((b"x-model-name", name.encode()), (b"x-model-version", version.encode()))


def served(settings: Settings) -> list[Served]:
    """What the settings say is served, by name and version; nothing is loaded.

    An entry script scores for every model. Without one, each model of the registry in
    ``AZUREML_MODEL_DIR`` is served, or the one in a folder that is none; of the versions of one
    model the last is in force.

    Raises:
        ConfigurationError: SCORING_DEFAULT_MODEL names a model that is not there.
        ModelDamaged: what is noted of the versions in force cannot be read.
    """
    folder = Path(settings.model_dir) if settings.model_dir else None
    registered = []
    if folder is not None and folder.is_dir():
        registered = in_force.served(folder, dict(settings.versions))
    if folder is None or entry_script.exists(settings) or not _holds_models(folder):
        return [_script(settings, registered)]
    if not registered:
        return [Served(*_named(settings.default_model or folder.resolve().name), folder)]
    found = [Served(each.name, str(each.version), each.path) for each in registered]
    default(found, settings)
    return found


def default(there: Sequence[Served], settings: Settings) -> Served | None:
    """The one that a request without a model's name means, if there is one.

    Raises:
        ConfigurationError: SCORING_DEFAULT_MODEL names none of them.
    """
    wanted = settings.default_model
    if len(there) == 1 and there[0].folder is None:
        return there[0]
    if wanted:
        try:
            return chosen(there, wanted)
        except UnknownModel as error:
            raise ConfigurationError(f"SCORING_DEFAULT_MODEL is {wanted!r}. {error}") from None
    only_one_name = len({each.name for each in there}) == 1
    return there[-1] if only_one_name else None


def chosen(there: Sequence[Served], wanted: str) -> Served:
    """The model of this ``name``, ``name:version`` or ``name/version``; its version in force.

    Raises:
        UnknownModel: there is none; the message lists what there is.
    """
    name, version = _parts(wanted)
    versions = [each for each in there if each.name == name]
    fitting = [each for each in versions if version in ("", each.version)]
    if fitting:
        return fitting[-1]
    if versions:
        numbers = ", ".join(each.version for each in versions)
        raise UnknownModel(f"The model {name} has no version {version[:50]!r}. It has: {numbers}.")
    names = ", ".join(dict.fromkeys(each.name for each in there))
    raise UnknownModel(f"There is no model {name[:100]!r} here. Served: {names}.")


def named(there: Sequence[Served], settings: Settings) -> dict[str, Served]:
    """Each way to name a model, and which one it means; "" is the default, if there is one."""
    by_name = {each.name: each for each in there} | {each.identity: each for each in there}
    by_default = default(there, settings)
    return by_name | ({"": by_default} if by_default else {})


def shown_in_headers(text: str) -> str:
    """As it is, if it is printable ASCII; else encoded as in an URL."""
    return text if text.isascii() and text.isprintable() else quote(text)


def _script(settings: Settings, registered: Sequence[models.RegisteredModel]) -> Served:
    if len({each.name for each in registered}) == 1:
        return Served(registered[-1].name, str(registered[-1].version))
    return Served(*_named(settings.default_model or _SCRIPT_NAME))


def _named(wanted: str) -> tuple[str, str]:
    name, version = _parts(wanted)
    return name, version or "1"


def _parts(wanted: str) -> tuple[str, str]:
    name, _, version = wanted.replace("/", ":").partition(":")
    return name, version


def _holds_models(folder: Path) -> bool:
    return bool(models.registered(folder) or candidates(folder)) if folder.is_dir() else False
