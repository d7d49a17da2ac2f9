"""The page: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from diffcache.errors import DependencyError
from diffcache.experiments.report.gather import Section
from diffcache.experiments.report.tables import Table


def page(sections: Sequence[Section], *, title: str, command: str, version: str, unified: Table | None = None) -> str:
    """HTML of a report; all texts are escaped.

    Args:
        sections: one for each pipeline.
        title: of the page.
        command: what makes it again.
        version: of diffcache.
        unified: classification and generation side by side; None where one of them was not measured.

    Raises:
        DependencyError: Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise DependencyError(
            f"Jinja2 is needed for a report and cannot be imported ({error}): pip install 'diffcache[report]'"
        ) from None
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    folder = files("diffcache.experiments.report")
    template = environment.from_string((folder / "report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        sections=sections,
        unified=unified,
        title=title,
        command=command,
        version=version,
        style=(folder / "report.css").read_text(encoding="utf-8"),
        script=(folder / "report.js").read_text(encoding="utf-8"),
    )
