"""`arena`: which of several models answers better, judged without knowing who said what."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from qlora_studio.cli.chatting import Talk, what_to_chat_with
from qlora_studio.cli.children import Engine, Reader
from qlora_studio.cli.counted import counted
from qlora_studio.cli.output import Told, print_error, print_json, print_text
from qlora_studio.cli.there import require_file, require_model
from qlora_studio.data.conversation import Message
from qlora_studio.errors import StudioError
from qlora_studio.plain_text import visible_line, visible_text
from qlora_studio.protocol import commands, events, reading
from qlora_studio.protocol.evaluation_report import named_file
from qlora_studio.runs.arena import (
    TIE,
    Arena,
    Pair,
    Player,
    Standing,
    missing_answers,
    missing_judgements,
    new_arena,
    next_pair,
    read_arena,
    save_arena,
    standing,
    votes_as_csv,
    with_answer,
    with_judge,
    with_judgement,
    with_vote,
    without_last_vote,
)
from qlora_studio.runs.arena_judge import JUDGE_TOKENS, judge_question, judgement_of, trust, trust_words

BASE = "base"
KEYS = "1: the first is better   2: the second   t: as good as each other   u: take the last back   q: later"
_LONGEST_SHOWN = 20_000  # characters of an answer


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`qlora-studio arena`."""
    arena = subparsers.add_parser(
        "arena",
        help="compare base and up to three adapters blindly on a list of prompts: Elo with its interval",
        description="Begins an arena with the base of RUN and the runs' adapters, or goes on with one. "
        "Answers come in random order without names, and are judged here by keys.",
    )
    arena.add_argument("what", nargs="+", metavar="RUN | ARENA.json", help="runs of one base, or an arena")
    arena.add_argument("--prompts", metavar="FILE", help="lines of text, or JSON objects with a prompt")
    arena.add_argument("--out", type=Path, metavar="ARENA.json", help="where a new arena is kept")
    arena.add_argument("--max-tokens", type=int, default=256, metavar="N", help="of an answer; 256")
    arena.add_argument("--greedy", action="store_true", help="always the likeliest token")
    arena.add_argument("--seed", type=int, default=0, metavar="N", help="of the answers and of their order")
    arena.add_argument("--no-votes", action="store_true", help="only write the answers, or show the standing")
    arena.add_argument(
        "--judge",
        metavar="MODEL",
        help="a local model (or run) judges too, each pair both ways round: its agreement with you and its "
        "position bias",
    )
    arena.add_argument("--csv", type=Path, metavar="FILE", help="write all votes with both answers")
    arena.add_argument("--json", action="store_true")
    arena.set_defaults(run=arena_command)


def arena_command(arguments: argparse.Namespace) -> int:
    """Raises: StudioError."""
    path, arena = _arena(arguments)
    if missing_answers(arena):
        arena = _answered(path, arena, quiet=arguments.json)
    if not arguments.no_votes:
        arena = judged(path, arena)
    if arguments.judge is not None:
        arena = _by_judge(path, arena, arguments.judge, quiet=arguments.json)
    if arguments.csv is not None:
        _write_csv(arguments.csv, arena)
    found = standing(arena)
    if arguments.json:
        print_json(standing_object(path, arena, found))
    else:
        for line in standing_lines(arena, found):
            print_text(line)
    return 0


def _arena(arguments: argparse.Namespace) -> tuple[Path, Arena]:
    first = Path(arguments.what[0])
    if first.suffix == ".json":
        if len(arguments.what) > 1 or arguments.prompts:
            raise StudioError("An arena that is there has its models and prompts.", hint="Name it alone.")
        return first, read_arena(first)
    if not arguments.prompts or arguments.out is None:
        raise StudioError("A new arena needs --prompts FILE and --out ARENA.json.")
    if arguments.out.exists():
        raise StudioError(
            f"{arguments.out} exists already.", hint=f"Go on: qlora-studio arena {arguments.out}"
        )
    require_file(arguments.prompts)
    chosen = [what_to_chat_with(run, None) for run in arguments.what]
    for name, (_, adapter, run) in zip(arguments.what, chosen, strict=True):
        if run and adapter is None:
            raise StudioError(
                f"{name} trained all weights and has no adapter.",
                hint="An arena is for a base and its adapters: only one model is loaded.",
            )
    model = chosen[0][0]
    if any(other != model for other, _, _ in chosen):
        raise StudioError(
            "These runs have different base models.", hint="An arena is for adapters of one base."
        )
    adapters = [
        Player(name=Path(run).name, adapter=adapter, run=run)
        for _, adapter, run in chosen
        if adapter is not None
    ]
    require_model(model.path)
    with Reader() as reader:
        prompts = reader.ask(
            reading.PromptsRead, reading.ReadPrompts, path=named_file(arguments.prompts)
        ).prompts
    arena = new_arena(
        Arena(
            model=model,
            players=(Player(name=BASE), *adapters),
            prompts=prompts,
            seed=arguments.seed,
            max_tokens=arguments.max_tokens,
            greedy=arguments.greedy,
        )
    )
    save_arena(arguments.out, arena)
    return arguments.out, arena


def _answered(path: Path, arena: Arena, quiet: bool) -> Arena:
    """With all answers; each is kept as soon as it is there, so that nothing is written twice."""
    require_model(arena.model.path)
    with Told(quiet=quiet) as told, Engine(told) as engine, Reader(told) as reader:
        talks = [Talk(engine, reader, arena.model, player.run) for player in arena.players]
        for player, talk in zip(arena.players, talks, strict=True):
            if player.adapter is not None:
                talk.check_adapter(player.adapter)
        for note in talks[0].load(alone=False):
            print_error(f"note: {note}")
        sampling = commands.Sampling(greedy=arena.greedy, max_tokens=arena.max_tokens, seed=arena.seed)
        missing = missing_answers(arena)
        for done, (prompt, place) in enumerate(missing):
            told("Answering", done, len(missing))
            asked = [Message("user", arena.prompts[prompt])]
            reply = talks[place].answer(asked, arena.players[place].adapter, sampling)
            arena = with_answer(arena, prompt, place, _whole(reply))
            save_arena(path, arena)
    return arena


def _by_judge(path: Path, arena: Arena, judge: str, quiet: bool) -> Arena:
    """Each pair twice, and kept as soon as it is there."""
    model, adapter, run = what_to_chat_with(judge, None)
    require_model(model.path)
    arena = with_judge(arena, adapter or named_file(model.path))
    with Told(quiet=quiet) as told, Engine(told) as engine, Reader(told) as reader:
        talk = Talk(engine, reader, model, run)
        if adapter is not None:
            talk.check_adapter(adapter)
        for note in talk.load(alone=adapter is None):
            print_error(f"note: {note}")
        sampling = commands.Sampling(greedy=True, max_tokens=JUDGE_TOKENS)
        missing = missing_judgements(arena)
        for done, pair in enumerate(missing):
            told("Judging", done, len(missing))
            questions = [judge_question(arena, pair, backwards) for backwards in (False, True)]
            replies = [
                _whole(talk.answer([Message("user", question)], adapter, sampling)) for question in questions
            ]
            arena = with_judgement(arena, judgement_of(pair, *replies))
            save_arena(path, arena)
    return arena


def _whole(reply: events.GenerationFinished) -> str:
    """Half a reply is nobody's. Raises: KeyboardInterrupt where the person stopped it."""
    if reply.ended == "stopped":
        raise KeyboardInterrupt
    return reply.reply


def judged(path: Path, arena: Arena) -> Arena:
    """As far as the person at the keyboard wants; each vote is kept at once."""
    pair = next_pair(arena)
    while pair is not None:
        _show(arena, pair)
        key = _key()
        if key == "q":
            break
        if key == "u":
            arena = without_last_vote(arena)
        else:
            arena = with_vote(arena, pair, {"1": pair.left, "2": pair.right, "t": TIE}[key])
        save_arena(path, arena)
        pair = next_pair(arena)
    return arena


def _show(arena: Arena, pair: Pair) -> None:
    print_text(f"\n{len(arena.votes) + 1}. {visible_text(arena.prompts[pair.prompt], _LONGEST_SHOWN)}")
    for number, place in enumerate((pair.left, pair.right), start=1):
        answer = arena.answers[pair.prompt][place] or ""
        print_text(
            f"\n--- answer {number} ---\n{visible_text(answer.strip(), _LONGEST_SHOWN) or '(nothing)'}"
        )
    print_text(f"\n{KEYS}")


def _key() -> str:
    """q at the end of the input, too."""
    while True:
        line = sys.stdin.readline()
        key = line.strip().lower()
        if not line or key in ("1", "2", "t", "u", "q"):
            return key or "q"
        print_text(KEYS)


def standing_lines(arena: Arena, found: Standing) -> list[str]:
    """For a person: ratings, the best first, and who won how often against whom."""
    names = [visible_line(player.name, 24) for player in arena.players]
    order = sorted(range(len(names)), key=lambda place: -found.ratings[place].elo)
    lines = [f"{counted(len(arena.votes), 'vote')} on {counted(len(arena.prompts), 'prompt')}"]
    lines.append(f"{'':<24} {'Elo':>6}  {'95% of 10,000 orders':<20} {'games':>6}  won against")
    for place in order:
        rating = found.ratings[place]
        won = ", ".join(
            f"{names[other]} {found.won[place][other]:g} of {_games(found, place, other):g}"
            for other in order
            if other != place and _games(found, place, other)
        )
        between = f"{rating.low:.0f} to {rating.high:.0f}"
        lines.append(f"{names[place]:<24} {rating.elo:>6.0f}  {between:<20} {found.games[place]:>6}  {won}")
    if arena.judgements:
        lines.append(f"{visible_line(arena.judge, 80)}: {trust_words(trust(arena))}")
    return lines


def _games(found: Standing, one: int, other: int) -> float:
    return found.won[one][other] + found.won[other][one]


def standing_object(path: Path, arena: Arena, found: Standing) -> dict[str, object]:
    """For scripts."""
    return {
        "arena": str(path),
        "prompts": len(arena.prompts),
        "votes": len(arena.votes),
        "judge": {"model": arena.judge, **dataclasses.asdict(trust(arena))} if arena.judgements else None,
        "players": [
            {
                "name": player.name,
                "adapter": player.adapter,
                "elo": rating.elo,
                "low": rating.low,
                "high": rating.high,
                "games": games,
                "won": list(won),
            }
            for player, rating, games, won in zip(
                arena.players, found.ratings, found.games, found.won, strict=True
            )
        ],
    }


def _write_csv(path: Path, arena: Arena) -> None:
    try:
        with path.open("x", encoding="utf-8", newline="") as file:
            file.write(votes_as_csv(arena))
    except FileExistsError as error:
        raise StudioError(
            f"{path} exists already.", hint="Choose another name; nothing was changed."
        ) from error
    except OSError as error:
        raise StudioError(f"{path} could not be written: {error.strerror}.") from error
