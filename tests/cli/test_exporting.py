"""What the terminal says of the check after an export."""

from __future__ import annotations

from qlora_studio.cli.exporting import verification_lines
from qlora_studio.protocol.events import FirstDifference, RunByLlamaCpp, Verification

PARTED = FirstDifference(prompt=3, token=9, wanted='" 18"', found='" 16"', times_likelier=1.0204)
VERIFIED = Verification(
    with_="transformers 5",
    prompts=8,
    token_agreement=0.992,
    mean_kl=0.001,
    max_logprob_drift=0.02,
    passed=True,
    same_replies=8,
    run=RunByLlamaCpp(
        with_="llama.cpp",
        token_agreement=0.984,
        max_logprob_drift=0.03,
        same_replies=7,
        first_difference=PARTED,
    ),
)


def test_replies_that_differ_are_told_with_how_near_a_tie_it_was():
    assert list(verification_lines(VERIFIED)) == [
        "Verified: 99.2% of tokens agree on 8 prompts (read again with transformers 5), "
        "largest log-probability drift 0.0200",
        "8 of 8 replies are the same.",
        "Run by llama.cpp: 98.4% of tokens agree, largest log-probability drift 0.0300",
        "7 of 8 replies are the same. The furthest first difference is token 9 of prompt 3: "
        '" 16" instead of " 18", which the trained model finds 1.02 times as likely.',
    ]


def test_what_is_no_tie_at_all_needs_no_figure():
    sure = FirstDifference(prompt=1, token=1, wanted="the end", found="token 5", times_likelier=4e8)
    assert sure.words.endswith(
        "token 5 instead of the end, which the trained model finds over 100 times as likely."
    )
