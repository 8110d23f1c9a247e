"""The interpreter of schedules."""
