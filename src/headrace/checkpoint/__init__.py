"""Saving, resuming on any layout, exporting."""
