"""The templates of the page and of the terminal: every function of `wording` is a filter of the same name."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from credits_pipeline import wording

if TYPE_CHECKING:
    from jinja2 import Template

FOLDER = Path(__file__).parent
# The explanation of a forecast is one sentence; a longer one can only come from a hostile name.
LONGEST_SENTENCE = 400


@cache
def template(name: str) -> "Template":
    """`report.html.j2`, in which all is escaped, or `answer.txt.j2`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(  # in plain text there is nothing to escape
        loader=FileSystemLoader(FOLDER),
        autoescape=name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: word for name, word in vars(wording).items() if callable(word)}
    environment.filters |= {
        "sentence": lambda words: wording.name(words, longest=LONGEST_SENTENCE),
        # A model's name may wrap after the vendor's part.
        "breakable": lambda words: Markup("/<wbr>").join(words.split("/")),
        # Drawn by vl-convert from our own specs; names are escaped there.
        "drawn": lambda svg: Markup(svg),  # noqa: S704
    }
    return environment.get_template(name)
