"""A local model as the judge of an arena: what it is asked, what it said, and how far it is to be trusted.

It is asked about every two answers both ways round: a judge that prefers what stands first (position bias)
contradicts itself then. source: Zheng et al., Judging LLM-as-a-Judge, arXiv:2306.05685; QLoRA asks so, too.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from qlora_studio.runs.arena import TIE, Arena, Judgement, Pair

JUDGE_TOKENS = 256  # of its reply, the verdict at the end included
_LONGEST_ANSWER = 4_000  # characters of each that it is shown
_VERDICT = re.compile(r"\[\[\s*([ABC])\s*\]\]")
_Z = 1.959964  # 95 %


@dataclass(frozen=True)
class Trust:
    """How a judge did.

    pairs, consistent: that it was asked about, and those of the same verdict both ways round
    unsaid:            verdicts that it didn't give, of two a pair
    first, decided:    verdicts for the answer that stood first, of those that were no tie
    low, high:         95 % interval of that share (Wilson); without position bias 0.5 lies in it
    voted, agreed:     pairs that a person judged too, and those of the same winner or tie; a judge that
                       contradicts itself counts as a tie
    """

    pairs: int
    consistent: int
    unsaid: int
    first: int
    decided: int
    low: float
    high: float
    voted: int
    agreed: int


def judge_question(arena: Arena, pair: Pair, backwards: bool) -> str:
    """The left answer stands first, or with `backwards` the right one."""
    first, second = (pair.right, pair.left) if backwards else (pair.left, pair.right)
    answers = [(arena.answers[pair.prompt][place] or "")[:_LONGEST_ANSWER] for place in (first, second)]
    return (
        "Two assistants answered the question below. Judge which answer is better: right, helpful, and to "
        "the point. Neither their order nor their length counts. Say why in one sentence, then end with "
        "exactly [[A]] if the first is better, [[B]] if the second is, or [[C]] if they are as good as each "
        "other.\n\n"
        f"Question:\n{arena.prompts[pair.prompt]}\n\n"
        f"First answer (A):\n{answers[0]}\n\nSecond answer (B):\n{answers[1]}\n\n"
        "Your verdict:"
    )


def winner_of(reply: str, pair: Pair, backwards: bool) -> int | None:
    """By the last verdict in it. None: there is none."""
    found = _VERDICT.findall(reply)
    if not found:
        return None
    first, second = (pair.right, pair.left) if backwards else (pair.left, pair.right)
    return {"A": first, "B": second, "C": TIE}[found[-1]]


def judgement_of(pair: Pair, forwards: str, backwards: str) -> Judgement:
    """From both replies."""
    return Judgement(
        prompt=pair.prompt,
        one=pair.left,
        other=pair.right,
        forwards=winner_of(forwards, pair, backwards=False),
        backwards=winner_of(backwards, pair, backwards=True),
    )


def trust(arena: Arena) -> Trust:
    """Of the judgements and votes so far."""
    first = decided = 0
    votes = {(vote.prompt, *sorted((vote.left, vote.right))): vote.winner for vote in arena.votes}
    voted = agreed = 0
    for item in arena.judgements:
        for winner, stood_first in ((item.forwards, item.one), (item.backwards, item.other)):
            if winner is not None and winner != TIE:
                decided += 1
                first += winner == stood_first
        key = (item.prompt, item.one, item.other)
        if key in votes:
            voted += 1
            agreed += votes[key] == _both_ways(item)
    low, high = _wilson(first, decided)
    return Trust(
        pairs=len(arena.judgements),
        consistent=sum(
            item.forwards is not None and item.forwards == item.backwards for item in arena.judgements
        ),
        unsaid=sum((item.forwards is None) + (item.backwards is None) for item in arena.judgements),
        first=first,
        decided=decided,
        low=low,
        high=high,
        voted=voted,
        agreed=agreed,
    )


def trust_words(found: Trust) -> str:
    """Sentences, for terminal and window."""
    pairs = f"{found.pairs:,} {'pair' if found.pairs == 1 else 'pairs'}"
    words = [f"The judge was asked about {pairs}, both ways round."]
    if found.pairs:
        words.append(f"It said the same both times in {found.consistent / found.pairs:.0%} of them.")
    if found.decided:
        words.append(
            f"What stood first won {found.first / found.decided:.0%} of its {found.decided:,} verdicts "
            f"(95% interval {found.low:.0%} to {found.high:.0%}; 50% is no position bias)."
        )
    if found.unsaid:
        words.append(f"{found.unsaid:,} of {2 * found.pairs:,} times it gave no verdict.")
    if found.voted:
        words.append(
            f"It agrees with you on {found.agreed:,} of {found.voted:,} pairs that you judged; where it "
            "contradicts itself it counts as a tie."
        )
    return " ".join(words)


def _both_ways(item: Judgement) -> int:
    same = item.forwards is not None and item.forwards == item.backwards
    return item.forwards if same and item.forwards is not None else TIE


def _wilson(hits: int, of: int) -> tuple[float, float]:
    if not of:
        return 0.0, 1.0
    share, spread = hits / of, _Z**2 / of
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / of + spread / (4 * of)) / (1 + spread)
    return max(middle - half, 0.0), min(middle + half, 1.0)
