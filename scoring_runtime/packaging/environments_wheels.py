"""Local wheels: the only files of this machine that a requirement can name."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import PackagingError
from .environments_files import shown
from .environments_names import canonical
from .specification import WHEELS

_PLATFORM = re.compile(r"any|(many|musl)?linux.*")
_EXPECTED = (
    "a name such as package-1.0-py3-none-any.whl is expected, as pip wheel and python -m build "
    "write it"
)


def wheel(path: Path, where: str) -> str:
    """The canonical name of the package in a wheel file for Linux.

    Raises:
        PackagingError: it is not there, its name is not that of a wheel, or it is for another
            system.
    """
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    if not path.is_file():
        raise PackagingError(f"{where}: the wheel {path} does not exist.")
    try:
        if not re.fullmatch(r"[\w.+!-]+", path.name, re.ASCII):
            raise InvalidWheelFilename("its name has characters that no wheel has")
        name, _, _, tags = parse_wheel_filename(path.name)
    except InvalidWheelFilename as error:
        raise PackagingError(
            f"{where}: {shown(path.name)} is not named as a wheel; {_EXPECTED}."
        ) from error
    platforms = sorted({tag.platform for tag in tags})
    if not any(_PLATFORM.fullmatch(each) for each in platforms):
        raise PackagingError(
            f"{where}: the wheel {path.name} is for {', '.join(platforms)}, and images run Linux: "
            "build or download it for Linux."
        )
    return canonical(name)


def line(path: Path, extras: str = "", marker: str = "") -> str:
    """The line of requirements.txt for a wheel in the context's folder of wheels."""
    return f"./{WHEELS}/{path.name}{extras}" + (f" ; {marker}" if marker else "")


def located(name: str, folder: Path) -> Path:
    """The file of that name: in ``folder``, else where this process runs, as pip looks for it."""
    path = folder / name
    return path if path.is_file() or not Path(name).is_file() else Path(name)
