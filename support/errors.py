"""What a user is told when something goes wrong."""


class Stopped(Exception):
    """A run ended early: a line for the user, and the exit status."""

    def __init__(self, message, status):
        super().__init__(message)
        self.status = status


def first_line(error):
    """What went wrong, in one line; Keras puts another library's reason last."""
    reason = str(error).split("Exception encountered: ")[-1].strip()
    return (reason or type(error).__name__).splitlines()[0]
