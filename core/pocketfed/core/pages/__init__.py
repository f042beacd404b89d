"""What every page of pocketfed shares: how templates are found, one style sheet, and macros for numbers and plots.

A page is one HTML document without a script and with nothing to fetch. Python chooses numbers and positions, a
template says how they look.
"""

from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined


def _source(name: str) -> str:
    package, _, file = name.partition("/")
    return files(package).joinpath(file).read_text("utf-8")


PAGES = Environment(
    loader=FunctionLoader(_source),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> str:
    """A page from `package/file`; every value passes through HTML escaping."""
    return PAGES.get_template(template).render(**values)
