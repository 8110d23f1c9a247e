"""Saving, resuming on any layout, exporting."""

from headrace.checkpoint.export import export_checkpoint
from headrace.checkpoint.folder import latest_checkpoint, read_meta
from headrace.checkpoint.load import load_state
from headrace.checkpoint.room import check_room
from headrace.checkpoint.save import save_checkpoint

__all__ = ["check_room", "export_checkpoint", "latest_checkpoint", "load_state", "read_meta", "save_checkpoint"]
