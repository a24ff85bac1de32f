"""The one exception a user reads."""


class StudioError(Exception):
    """Something a person can understand and act on; never a bug of ours.

    message: what happened and where, one sentence of plain text
    hint:    what to do about it; may be empty
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()
