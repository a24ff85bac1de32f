"""A chat's branches, turned into what a conversation's file holds and back."""

from __future__ import annotations

from qlora_studio.protocol.events import Problem
from qlora_studio.runs.conversations import NOTHING_SAID, Conversation, KeptReply, KeptTurn
from qlora_studio.state.chat_branches import Branches
from qlora_studio.state.chat_turns import Reply, Turn, Writing


def kept_turns(branches: Branches) -> tuple[tuple[KeptTurn, ...], tuple[KeptReply, ...], int]:
    """(turns, replies, the place of the last turn shown), as `Conversation` names them."""
    turns = branches.every_turn()
    place_of = {id(turn): place for place, turn in enumerate(turns)}
    replies = list(dict.fromkeys(reply for turn in turns for reply in turn.replies))
    reply_of = {id(reply): place for place, reply in enumerate(replies)}
    kept = tuple(
        KeptTurn(
            text=turn.text,
            before=place_of.get(id(turn.before), NOTHING_SAID),
            replies=tuple(reply_of[id(reply)] for reply in turn.replies),
        )
        for turn in turns
    )
    shown = branches.shown()
    return kept, tuple(map(_kept_reply, replies)), place_of[id(shown[-1])] if shown else NOTHING_SAID


def branches_of(conversation: Conversation) -> Branches:
    """As they were when it was saved. A reply that was on its way then counts as stopped."""
    branches = Branches()
    replies = [_reply(kept) for kept in conversation.replies]
    turns: list[Turn] = []
    for kept in conversation.turns:
        turns.append(Turn(kept.text, [replies[place] for place in kept.replies]))
        branches.add(turns[-1], turns[kept.before] if kept.before != NOTHING_SAID else None)
    if conversation.shown != NOTHING_SAID:
        turns[conversation.shown].chosen = None
        branches.show(turns[conversation.shown])
    return branches


def _kept_reply(reply: Reply) -> KeptReply:
    return KeptReply(
        side=reply.side,
        adapter=reply.adapter,
        attempt=reply.attempt,
        text=reply.text,
        tokens=reply.tokens,
        tokens_per_second=reply.tokens_per_second,
        first_token_seconds=reply.first_token_seconds,
        ended=reply.ended or ("" if reply.state is Writing.FAILED else "stopped"),
        problem=reply.problem.message if reply.problem else "",
        hint=reply.problem.hint if reply.problem else "",
    )


def _reply(kept: KeptReply) -> Reply:
    return Reply(
        side=kept.side,
        adapter=kept.adapter,
        attempt=kept.attempt,
        state=Writing.FAILED if kept.problem else Writing.DONE,
        text=kept.text,
        tokens=kept.tokens,
        tokens_per_second=kept.tokens_per_second,
        first_token_seconds=kept.first_token_seconds,
        ended=kept.ended,
        problem=Problem(kept.problem, kept.hint) if kept.problem else None,
    )
