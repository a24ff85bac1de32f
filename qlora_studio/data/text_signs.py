"""What a text gives away: a refusal, a key, an address, a wrong encoding, a sentence without its end.

Each sign is looked for twice: by a pattern that Arrow runs over whole columns and that may find too much, and
by a judgement of each text that is left. The lists are short: what they name is nearly always that.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import ftfy

SIGNS_VERSION = 1  # raised when the same text would be judged otherwise, or mended otherwise


@dataclass(frozen=True)
class Sign:
    """What is looked for.

    pattern: for RE2
    judge:   whether a text that the pattern fits shows the sign
    """

    pattern: str
    judge: Callable[[str], bool]


_REFUSED = (
    r"assist|help|provide|fulfill?|comply|answer|generate|create|write|produce|do that|support|engage|"
    r"discuss|share|access|browse|offer|give|participate|continue|respond|complete|process|predict|express|recommend"
)
_CANNOT = (
    r"(?:can(?:no|')?t|can not|cannot|am (?:not able|unable) to|'m (?:not able|unable) to|won't|will not)"
)
_REFUSAL = re.compile(
    rf"^\W*(?:(?:(?:I'm|I am|we're|we are) (?:really |very |so )?sorry|sorry|(?:I|my) apolog\w+)\b"
    rf".{{0,40}}?)?"
    rf"(?:\bI(?: simply)? ?{_CANNOT} (?:be able to |to )?(?:{_REFUSED})\b)",
    re.IGNORECASE | re.DOTALL,
)
_AS_AN_AI = re.compile(
    r"\b(?:as|(?:I am|I'm)(?: just| only)?) an? (?:AI|artificial intelligence|large language model|"
    r"language model)(?:[- ]?(?:language )?(?:model|assistant|chatbot|program))?(?: developed by \w+)?"
    r"(?:,|\.|;| and| so| that|) ?(?:and |but |so )?(?:I|my|don't|do not|cannot|can't|not able)\b",
    re.IGNORECASE,
)
_OPENING = 300  # characters: who speaks of himself as a program does it at once


def is_refusal(answer: str) -> bool:
    """Whether an assistant says that it can't, or speaks of itself as a program, in place of an answer."""
    opening = answer[:_OPENING].replace("’", "'")
    return bool(_REFUSAL.search(opening) or _AS_AN_AI.search(opening))


REFUSAL = Sign(
    r"(?is)^.{0,300}(?:as an? |I am (?:just |only )?an? |I['’]m (?:just |only )?an? |"
    r"I(?: simply)? ?(?:can['’]?t|cannot|can not|am not able|am unable|['’]m (?:not able|unable)|won['’]t|"
    r"will not))",
    is_refusal,
)

_KEY = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # Amazon
    r"|\bgh[pousr]_[A-Za-z0-9]{36,255}\b|\bgithub_pat_[A-Za-z0-9_]{50,}"
    r"|\bsk-(?:proj-|svcacct-|ant-)?[A-Za-z0-9_-]{32,}"  # OpenAI, Anthropic
    r"|\bAIza[0-9A-Za-z_-]{35}\b|\bhf_[A-Za-z]{34}\b|\bxox[abprs]-[0-9A-Za-z-]{20,}"
    r"|-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{64}"
)
_PLACEHOLDER = re.compile(r"(?i)example|your[-_]?|x{6}|(.)\1{7}|123456789|abcdefgh")


def holds_key(text: str) -> bool:
    """Whether something that opens a door stands in it; what manuals show in its place doesn't count."""
    return any(not _PLACEHOLDER.search(found.group()) for found in _KEY.finditer(text))


KEY = Sign(r"AKIA|ASIA|gh[pousr]_|github_pat_|sk-|AIza|hf_|xox[abprs]-|PRIVATE KEY-----", holds_key)

_ADDRESS = re.compile(r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@((?:[A-Za-z0-9-]{1,63}\.)+)([A-Za-z]{2,24})\b")
_NOBODYS = re.compile(
    r"(?i)(?:^|\.)(?:example|test|invalid|localhost|domain|company|yourcompany|yourdomain|mycompany|email|mail|"
    r"acme|xyz|abc|website|sample|site|business|organization)\.$"
)


def holds_address(text: str) -> bool:
    """Whether an e-mail address of somebody stands in it; those of examples don't count."""
    return any(
        not _NOBODYS.search(found.group(1))
        and found.group(2).lower() not in ("example", "test", "png", "jpg")
        for found in _ADDRESS.finditer(text)
    )


ADDRESS = Sign(r"[A-Za-z0-9]@[A-Za-z0-9-]+\.[A-Za-z]", holds_address)

_TEMPLATE_MARK = re.compile(
    r"<\|(?:im_start|im_end|start_header_id|eot_id|begin_of_text|user|assistant|end)\|>|\[/?INST\]"
    r"|<(?:start|end)_of_turn>|^### (?:Instruction|Response|Input):",
    re.MULTILINE,
)


def holds_template_marks(text: str) -> bool:
    """Whether it was written by a chat template before: two marks at least, as one may be spoken of."""
    return len(_TEMPLATE_MARK.findall(text)) > 1


TEMPLATE_MARKS = Sign(r"<\||\[/?INST\]|_of_turn>|### (?:Instruction|Response|Input):", holds_template_marks)

_AS_IT_STANDS = ftfy.TextFixerConfig(replace_lossy_sequences=False)


def mended_encoding(text: str) -> str:
    """As it was before it was read in a wrong encoding; the text itself where it wasn't."""
    mended = ftfy.fix_encoding(text, _AS_IT_STANDS)
    return text if "\ufffd" in mended and "\ufffd" not in text else mended


ENCODING = Sign(
    r"[À-ßâ-ïð-ô][\x{80}-\x{BF}€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]", lambda text: mended_encoding(text) != text
)

_OPEN_WORD = re.compile(
    r"[^\s.!?:;)\]}\"'”’»|>`*_$\\]\s+(?:the|a|an|and|or|your|their|our|my|because|which|whose|into|than|"
    r"although|whether)$|\w,$"
)
_LEAST_LENGTH = 200  # characters: a short answer may be a title or a list


def is_cut(answer: str) -> bool:
    """Whether it ends in a comma or in a word that ends no sentence."""
    text = answer.rstrip()
    last = text.rsplit("\n", 1)[-1]
    prose = len(last.split()) >= 6 and not last.lstrip().startswith(("|", "#", ">", "```", "//"))
    return len(text) >= _LEAST_LENGTH and prose and bool(_OPEN_WORD.search(last))


CUT = Sign(
    r"(?:\s(?:the|a|an|and|or|your|their|our|my|because|which|whose|into|than|although|whether)|\w,)\s*$",
    is_cut,
)
