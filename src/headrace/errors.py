"""The two errors that people see. Everything else that escapes is a bug."""


class HeadraceError(Exception):
    """One sentence for a person: names the thing, both numbers and the way out."""

    exit_code = 1


class RequestError(HeadraceError):
    """What was asked for cannot be done; nothing was started and nothing was lost."""

    exit_code = 2


class RunError(HeadraceError):
    """A job that had begun has failed."""

    exit_code = 1


class PeerLostError(RunError):
    """A rank could not go on because another one is gone: never the first cause."""


class StuckError(RunError):
    """A rank has waited for too long; the text names the one that is stuck, which cannot speak for itself."""
