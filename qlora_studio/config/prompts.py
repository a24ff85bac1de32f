"""Questions that are asked where a run has none of its own."""

from __future__ import annotations

from collections.abc import Iterable

# Offered on the Chat page: short, and answered differently by most adapters.
FIRST_QUESTIONS = (
    "A train travels 60 miles in one hour. How far does it travel in 3 hours?",
    "Explain in two sentences why the sky is blue.",
    "Write a short and friendly reply to a customer whose parcel is late.",
)

# Answered by an exported file and by the adapter it was made from: arithmetic, prose, lists, facts.
CHECK_QUESTIONS = (
    "What is 12 times 7?",
    "Write one sentence about the sea.",
    "Name three colours.",
    "Why is the sky blue?",
    "Say good morning in French and in Spanish.",
    "Which is larger, 0.9 or 0.11?",
    "How does one boil an egg?",
    "Continue: one, two, four, eight,",
)


def check_prompts(own: Iterable[str], most: int = len(CHECK_QUESTIONS)) -> list[str]:
    """`most` different ones, the run's own first."""
    return list(dict.fromkeys((*own, *CHECK_QUESTIONS)))[:most]
