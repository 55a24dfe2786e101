"""The errors that are meant for the user."""


class UserError(ValueError):
    """Something to put right: one line that names it and says how."""
