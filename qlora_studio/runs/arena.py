"""Blind comparisons: the same prompts answered by several models, and which answer a person found better.

One private JSON file each, whole or as it was before.
"""

from __future__ import annotations

import csv
import io
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from qlora_studio.config.run_config import ModelConfig
from qlora_studio.errors import StudioError
from qlora_studio.runs.durable import FOLDER_MODE, read_file, write_file_durably
from qlora_studio.runs.elo import Game, Rating, elo_ratings, win_matrix
from qlora_studio.runs.space import saving

SCHEMA_VERSION = 1
TIE = -1  # the winner where both answers are as good

MOST_PLAYERS = 4  # the base and three adapters
MOST_PROMPTS = 1_000
_LARGEST = 256_000_000  # bytes


class Player(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers. adapter: its folder; None: the base alone. run: its run's folder, or empty."""

    name: str
    adapter: str | None = None
    run: str = ""


class Vote(msgspec.Struct, frozen=True, kw_only=True):
    """left, right: places of the players whose answers stood there. winner: one of the two, or TIE."""

    prompt: int
    left: int
    right: int
    winner: int


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What a judge model said of two answers, asked both ways round.

    forwards:  the winner where the answer of `one` stood first: a player, TIE, or None: it gave no verdict
    backwards: the same where that of `other` did
    """

    prompt: int
    one: int
    other: int
    forwards: int | None
    backwards: int | None


class Arena(msgspec.Struct, frozen=True, kw_only=True):
    """answers: [prompt][player], None where it isn't there yet. seed: of replies, and of the pairs' order.

    judge: folder of the model whose judgements these are; empty: none was asked
    """

    schema_version: int = SCHEMA_VERSION
    model: ModelConfig
    players: tuple[Player, ...]
    prompts: tuple[str, ...]
    answers: tuple[tuple[str | None, ...], ...] = ()
    votes: tuple[Vote, ...] = ()
    seed: int = 0
    max_tokens: int = 256
    greedy: bool = False
    judge: str = ""
    judgements: tuple[Judgement, ...] = ()


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """Two answers to be compared."""

    prompt: int
    left: int
    right: int


@dataclass(frozen=True)
class Standing:
    """[player] ratings and games, [player][other] games won."""

    ratings: tuple[Rating, ...]
    games: tuple[int, ...]
    won: tuple[tuple[float, ...], ...]


def new_arena(arena: Arena) -> Arena:
    """With room for the answers. Raises: StudioError where it can't be played."""
    if not 2 <= len(arena.players) <= MOST_PLAYERS:
        raise StudioError(
            f"An arena is for two to {MOST_PLAYERS} models.", hint="Choose another run beside it."
        )
    if not 1 <= len(arena.prompts) <= MOST_PROMPTS:
        raise StudioError(f"An arena takes one to {MOST_PROMPTS:,} prompts, not {len(arena.prompts):,}.")
    nothing = (None,) * len(arena.players)
    return msgspec.structs.replace(arena, answers=(nothing,) * len(arena.prompts), votes=())


def read_arena(path: Path) -> Arena:
    """Raises: StudioError where it can't be read, is torn, or was written by a newer version."""
    try:
        arena = msgspec.json.decode(read_file(path, _LARGEST), type=Arena)
    except OSError as error:
        raise StudioError(f"{path} could not be read: {error.strerror}.") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StudioError(f"{path} is no arena that can be read.", hint="It is left as it is.") from error
    if arena.schema_version > SCHEMA_VERSION:
        raise StudioError(f"{path} was written by a newer version.", hint="Update to open it.")
    if not _hangs_together(arena):
        raise StudioError(f"{path} is damaged: its parts don't go together.", hint="It is left as it is.")
    return arena


def save_arena(path: Path, arena: Arena) -> None:
    """Raises: StudioError."""
    with saving("the arena", path):
        path.parent.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        write_file_durably(path, msgspec.json.encode(arena))


def with_answer(arena: Arena, prompt: int, player: int, text: str) -> Arena:
    """One more answer."""
    line = (*arena.answers[prompt][:player], text, *arena.answers[prompt][player + 1 :])
    answers = (*arena.answers[:prompt], line, *arena.answers[prompt + 1 :])
    return msgspec.structs.replace(arena, answers=answers)


def with_vote(arena: Arena, pair: Pair, winner: int) -> Arena:
    """winner: a player of the pair, or TIE."""
    vote = Vote(prompt=pair.prompt, left=pair.left, right=pair.right, winner=winner)
    return msgspec.structs.replace(arena, votes=(*arena.votes, vote))


def without_last_vote(arena: Arena) -> Arena:
    """One step back."""
    return msgspec.structs.replace(arena, votes=arena.votes[:-1])


def missing_answers(arena: Arena) -> list[tuple[int, int]]:
    """(prompt, player), prompt by prompt: the first can be judged while the others are written."""
    return [
        (prompt, player)
        for prompt, line in enumerate(arena.answers)
        for player, text in enumerate(line)
        if text is None
    ]


def all_pairs(arena: Arena) -> list[Pair]:
    """Every two answers to each prompt, prompt by prompt, sides by lot; the same for the same seed."""
    drawn = random.Random(arena.seed)
    pairs = []
    for prompt in range(len(arena.prompts)):
        of_prompt = []
        for two in itertools.combinations(range(len(arena.players)), 2):
            left, right = drawn.sample(two, 2)
            of_prompt.append(Pair(prompt=prompt, left=left, right=right))
        drawn.shuffle(of_prompt)
        pairs += of_prompt
    return pairs


def next_pair(arena: Arena) -> Pair | None:
    """The first that wasn't judged and whose answers are there; None: none is left, or not yet there.

    Equal answers are as good as each other: they count as a tie in `games` and aren't asked about.
    """
    judged = {(vote.prompt, *sorted((vote.left, vote.right))) for vote in arena.votes}
    for pair in all_pairs(arena):
        left, right = _texts(arena, pair)
        asked = (pair.prompt, *sorted((pair.left, pair.right)))
        if left is not None and right is not None and left != right and asked not in judged:
            return pair
    return None


def games(arena: Arena) -> list[Game]:
    """What was judged, and what needs no judge: equal answers."""
    played = [
        Game(vote.left, vote.right, 0.5 if vote.winner == TIE else float(vote.winner == vote.left))
        for vote in arena.votes
    ]
    for pair in all_pairs(arena):
        left, right = _texts(arena, pair)
        if left is not None and left == right:
            played.append(Game(pair.left, pair.right, 0.5))
    return played


def standing(arena: Arena) -> Standing:
    """As of now. Takes about a second for a thousand games."""
    played, players = games(arena), len(arena.players)
    counts = tuple(sum(player in game[:2] for game in played) for player in range(players))
    won = tuple(tuple(line) for line in win_matrix(played, players))
    return Standing(tuple(elo_ratings(played, players)), counts, won)


def votes_as_csv(arena: Arena) -> str:
    """A line for each vote, with prompt, names and answers."""
    lines = io.StringIO()
    writer = csv.writer(lines)
    writer.writerow(("prompt", "left", "right", "winner", "left_answer", "right_answer"))
    for vote in arena.votes:
        left, right = (arena.players[place].name for place in (vote.left, vote.right))
        winner = "tie" if vote.winner == TIE else arena.players[vote.winner].name
        said = (arena.answers[vote.prompt][place] or "" for place in (vote.left, vote.right))
        writer.writerow((arena.prompts[vote.prompt], left, right, winner, *said))
    return lines.getvalue()


def with_judge(arena: Arena, judge: str) -> Arena:
    """What another one said is no judgement of this one."""
    return arena if judge == arena.judge else msgspec.structs.replace(arena, judge=judge, judgements=())


def with_judgement(arena: Arena, judgement: Judgement) -> Arena:
    """One more."""
    return msgspec.structs.replace(arena, judgements=(*arena.judgements, judgement))


def missing_judgements(arena: Arena) -> list[Pair]:
    """Every two unlike answers that the judge wasn't asked about; one and other stand at left and right."""
    done = {(item.prompt, item.one, item.other) for item in arena.judgements}
    missing = []
    for prompt, line in enumerate(arena.answers):
        for one, other in itertools.combinations(range(len(line)), 2):
            unlike = None not in (line[one], line[other]) and line[one] != line[other]
            if unlike and (prompt, one, other) not in done:
                missing.append(Pair(prompt=prompt, left=one, right=other))
    return missing


def _texts(arena: Arena, pair: Pair) -> Sequence[str | None]:
    return arena.answers[pair.prompt][pair.left], arena.answers[pair.prompt][pair.right]


def _hangs_together(arena: Arena) -> bool:
    players = len(arena.players)
    if not 2 <= players <= MOST_PLAYERS or len(arena.answers) != len(arena.prompts):
        return False
    if any(len(line) != players for line in arena.answers):
        return False
    if not all(
        0 <= item.prompt < len(arena.prompts)
        and 0 <= item.one < item.other < players
        and {item.forwards, item.backwards} <= {None, TIE, item.one, item.other}
        for item in arena.judgements
    ):
        return False
    return all(
        0 <= vote.prompt < len(arena.prompts)
        and 0 <= vote.left < players
        and 0 <= vote.right < players
        and vote.left != vote.right
        and vote.winner in (TIE, vote.left, vote.right)
        for vote in arena.votes
    )
