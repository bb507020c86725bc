"""Flows that a reader can touch: one HTML file for any browser, and a panel in a notebook."""

from nbflows.explorer.describe import describe
from nbflows.explorer.page import write_page

__all__ = ["describe", "write_page"]
