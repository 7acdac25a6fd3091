"""The base of every error that people are meant to read."""


class CreditsError(Exception):
    """One sentence for people: what went wrong, and what to do. Anything else that is raised is a bug."""
