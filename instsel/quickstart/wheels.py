"""Download pinned wheels from PyPI with pip, check their SHA-256, and cache them."""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from instsel.errors import InputError

_LINES_OF_PIP_SHOWN = 6


def fetch_wheel(requirement: str, sha256: str, cache: Path) -> Path:
    """Return the path of a pinned wheel in the cache; download it if it is missing or has another SHA-256.

    Args:
        requirement: An exact pin, `name==version`, of a pure-Python wheel.
        sha256: SHA-256 of the wheel, 64 lower-case hexadecimal digits.
        cache: Folder of the wheels; created if missing.

    Returns:
        `cache/<name>-<version>-py3-none-any.whl`, with that SHA-256.

    Raises:
        InputError: pip could not download it, or the download has another SHA-256. The message says where to put the
            wheel manually.
    """
    name, version = requirement.split("==")
    wheel = cache / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    if wheel.is_file() and sha256_of(wheel) == sha256:
        return wheel
    cache.mkdir(parents=True, exist_ok=True)
    # In the cache, not in the system's temporary folder, as a rename is atomic only within a file system.
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
        fetched = Path(folder) / wheel.name
        _pip_download(requirement, wheel, Path(folder))
        if not fetched.is_file():
            names = sorted(path.name for path in Path(folder).iterdir())
            raise InputError(f"pip downloaded {names} for {requirement}, not {wheel.name}; {_by_hand(wheel)}")
        if (digest := sha256_of(fetched)) != sha256:
            raise InputError(
                f"the wheel downloaded for {requirement} has SHA-256 {digest}, expected {sha256}: the package index "
                f"serves another file; {_by_hand(wheel)}"
            )
        fetched.replace(wheel)
    return wheel


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _pip_download(requirement: str, wheel: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    command += ["--quiet", "--disable-pip-version-check", requirement]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if result.returncode == 0:
        return
    output = "\n".join(result.stderr.strip().splitlines()[-_LINES_OF_PIP_SHOWN:])
    raise InputError(
        f"could not download {requirement}: `{' '.join(command)}` ended with status {result.returncode}:\n{output}\n"
        f"PyPI (or the index pip is configured for) must be reachable; {_by_hand(wheel)}"
    )


def _by_hand(wheel: Path) -> str:
    return f"or put the wheel there by hand, at {wheel}, and start again"
