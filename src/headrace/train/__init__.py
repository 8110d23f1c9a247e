"""The job: configuration, data, loop, metrics."""
