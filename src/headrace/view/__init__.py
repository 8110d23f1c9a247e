"""Timelines and runs as pictures, pages and trace files."""

from headrace.view.page import page_data, write_page
from headrace.view.run_folder import RunFolder

__all__ = ["RunFolder", "page_data", "write_page"]
