"""Time as a person says it."""


def duration(seconds: float) -> str:
    """ "1 h 33 min", "12 min", "40 s"."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    hours, minutes = divmod(round(whole / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
