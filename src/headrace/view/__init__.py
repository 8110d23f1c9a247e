"""Timelines and runs as pictures, pages and trace files."""
