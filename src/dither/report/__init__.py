"""One page about a run: a self-contained HTML file without scripts, readable on a phone, in the dark and on paper."""

from ._page import make_page as make_page
from ._page import write_page as write_page
