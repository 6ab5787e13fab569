"""A self-contained HTML page: it fetches nothing."""

import base64
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from jinja2 import Environment, PackageLoader, StrictUndefined

from ldm_ray import __version__
from ldm_ray.pages.table import ScoreTable

LIBRARIES = ("ray", "torch", "numpy", "scipy", "rdkit", "pyarrow")


@dataclass(frozen=True)
class Figure:
    """A picture with a caption; `png` is the file's content."""

    title: str
    meaning: str
    png: bytes

    @property
    def data(self) -> str:
        """The picture in base64."""
        return base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Page:
    """Contents of a report page."""

    title: str
    subtitle: str
    tables: list[ScoreTable]
    figures: list[Figure]
    summary: list[str]
    notes: list[str]
    settings: str
    banner: str = ""
    models: tuple[str, ...] = field(default=())
    libraries: tuple[str, ...] = LIBRARIES

    def render(self) -> str:
        """Return the page as HTML."""
        environment = Environment(
            loader=PackageLoader("ldm_ray.pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        return environment.get_template("report.html.j2").render(
            **{name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("models", "libraries")},
            versions=versions(self.libraries),
            row_class=self._row_class,
        )

    def _row_class(self, name: str) -> str:
        first = name.split(",")[0]
        return "oracle" if first == "oracle" else "model" if first in self.models else ""


def versions(names: Sequence[str] = LIBRARIES) -> str:
    """Name the versions that computed the page."""
    libraries = ", ".join(f"{name} {version(name)}" for name in names)
    return f"ldm-ray {__version__}, Python {platform.python_version()}, {libraries}"
