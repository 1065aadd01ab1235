"""Where the quickstart's study file lies."""

from pathlib import Path


def quickstart_study() -> Path:
    """Path of quickstart.yaml: inside an installed package, or among configs/ of the project it is run from."""
    here = Path(__file__).parent
    packed = here / "quickstart.yaml"
    return packed if packed.is_file() else here.parent.parent / "configs" / "quickstart.yaml"
