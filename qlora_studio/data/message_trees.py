"""Trees of messages, as OpenAssistant has them: each answered several times, the answers ranked by people.

A tree is one record with its replies within, or each message is a record that names its parent. Either way
the records that are counted are the messages. The QLoRA paper learns the best reply at each level.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qlora_studio.data.chats import ROLE_OF, checked_chat
from qlora_studio.data.conversation import Message
from qlora_studio.data.limits import MAX_EXPANSION, MAX_ROW_BYTES
from qlora_studio.data.record import (
    Conversation,
    LeftOutError,
    Place,
    Record,
    RecordError,
    in_words,
    named,
    nested,
)
from qlora_studio.data.strict_json import Spelled
from qlora_studio.errors import StudioError

READY = "ready_for_export"
MOST_GATHERED = 600_000_000  # bytes of messages that wait for their trees to be whole, about
_OF_A_NODE = 700  # bytes beside the text

# Why messages are left out. The words are reasons in a report: none names a message
_BRANCH = LeftOutError("on a branch that isn't taken: another reply ranks higher or stands first")
_NO_ANSWER = LeftOutError("a prompt that nobody answered")
_DELETED = LeftOutError("deleted")
_NOT_PASSED = LeftOutError("didn't pass review")
_BELOW_LEFT_OUT = LeftOutError("a reply to a message that is left out")
_BELOW_FAULTY = RecordError("a reply to a message that can't be used")
_TOO_LONG = RecordError(f"longer than {MAX_ROW_BYTES / 1e6:.0f} MB with the turns before it")


@dataclass(frozen=True)
class TreePart:
    """What became of some messages: paths that are rows, how many messages are earlier turns of them, and the
    messages that were skipped."""

    paths: tuple[tuple[Conversation, Place], ...] = ()
    folded: int = 0
    skipped: tuple[tuple[RecordError, Place], ...] = ()


def read_trees(
    records: Iterable[Record], columns: Mapping[str, str], *, all_paths: bool, name: str
) -> Iterator[TreePart]:
    """columns: "tree" -> the column with a tree's first message, or "id", "parent", "text" and "role".

    all_paths: each answer that nothing follows ends a row; else one row a tree, the best reply at each level.
    Raises: StudioError naming the file where its messages don't fit into memory.
    """
    trees = _of_whole_trees(records, columns) if "tree" in columns else _of_messages(records, columns, name)
    for tree in trees:
        yield tree if isinstance(tree, TreePart) else _read(tree, all_paths, name)


@dataclass(slots=True, eq=False)
class _Node:
    message: Message
    rank: float
    place: Place
    fault: RecordError | None = None  # why it can't be taken
    above: _Node | None = None
    replies: list[_Node] = field(default_factory=list)
    answered: bool = False  # whether it is an answer, or something that follows it is


# A tree is the list of its nodes, each behind the one it replies to


def _of_whole_trees(
    records: Iterable[Record], columns: Mapping[str, str]
) -> Iterator[list[_Node] | TreePart]:
    for record in records:
        try:
            values = _object(record.value)
            if columns["tree"] not in values:
                raise RecordError(f"no column {named(columns['tree'])}")
            first = nested(values[columns["tree"]])
            yield _tree_within(first, record.place, values.get(columns.get("state", "")))
        except RecordError as error:
            yield TreePart(skipped=((error, record.place),))


def _tree_within(first: Any, place: Place, state: Any) -> list[_Node]:
    tree: list[_Node] = []
    waiting: list[tuple[Any, _Node | None]] = [(first, None)]
    for values, above in waiting:  # grows while it is walked through
        known = values if isinstance(values, dict) else {}
        node = _node({"tree_state": state, **known}, place)
        node.above = above
        if above is not None:
            above.replies.append(node)
        tree.append(node)
        replies = known.get("replies") or []
        if isinstance(replies, list):
            waiting.extend((reply, node) for reply in replies)
        else:
            node.fault = node.fault or RecordError(f"the replies are {in_words(replies)}, not a list")
    return tree


def _of_messages(
    records: Iterable[Record], columns: Mapping[str, str], name: str
) -> Iterator[list[_Node] | TreePart]:
    """A message may stand before the one it replies to: trees are whole at the end of the file only."""
    nodes: dict[str, _Node] = {}
    parents: dict[str, str] = {}
    size = 0
    for record in records:
        try:
            values = {key: _object(record.value).get(columns.get(field, "")) for field, key in _KEYS.items()}
            identity = values["message_id"]
            if not isinstance(identity, str) or not identity:
                raise RecordError("no message id")
            if identity in nodes:
                raise RecordError("another message has the same id")
            nodes[identity] = _node(values, record.place)
        except RecordError as error:
            yield TreePart(skipped=((error, record.place),))
            continue
        parents[identity] = values["parent_id"] if isinstance(values["parent_id"], str) else ""
        size += len(nodes[identity].message.content) + _OF_A_NODE
        if size > MOST_GATHERED:
            raise StudioError(
                f"{name}: its messages are more than {MOST_GATHERED / 1e6:.0f} MB, too much to put "
                "trees together from.",
                hint="Split the file by trees, or import a file where each tree is one record.",
            )
    yield from _grown(nodes, parents)


def _grown(nodes: Mapping[str, _Node], parents: Mapping[str, str]) -> Iterator[list[_Node]]:
    """The trees that these messages make."""
    roots = []
    for identity, node in nodes.items():
        above = nodes.get(parents[identity])
        if above is not None:
            node.above = above
            above.replies.append(node)
            continue
        if parents[identity]:
            node.fault = node.fault or RecordError("a reply to a message that isn't in the file")
        roots.append(node)
    left = dict.fromkeys(nodes.values())
    for root in roots:
        tree = [root]
        for node in tree:  # grows while it is walked through
            tree.extend(node.replies)
            del left[node]
        yield tree
    for node in left:  # what no first message leads to: their parents lead in a circle
        node.fault, node.above, node.replies = RecordError("it replies to itself, over others"), None, []
        yield [node]


def _read(tree: Sequence[_Node], all_paths: bool, name: str) -> TreePart:
    for node in tree:
        above = node.above.fault if node.above else None
        if above is not None and node.fault is None:
            node.fault = _BELOW_LEFT_OUT if isinstance(above, LeftOutError) else _BELOW_FAULTY
    for node in reversed(tree):
        answers = node.message.role == "assistant"
        node.answered = node.fault is None and (answers or any(reply.answered for reply in node.replies))
    ends = [node for node in tree if node.answered and not any(reply.answered for reply in node.replies)]
    if ends and not all_paths:
        ends = [_best_end(tree[0])]
    paths = list(_paths(tree, ends, name))
    kept = {id(node) for path in paths for node in path}
    return TreePart(
        paths=tuple((_conversation(path), path[0].place) for path in paths),
        folded=len(kept) - len(paths),
        skipped=tuple(
            (node.fault or (_BRANCH if node.answered else _NO_ANSWER), node.place)
            for node in tree
            if id(node) not in kept
        ),
    )


def _best_end(node: _Node) -> _Node:
    """The best reply at each level: of the lowest rank, then the first."""
    while replies := [reply for reply in node.replies if reply.answered]:
        node = min(replies, key=lambda reply: reply.rank)
    return node


def _paths(tree: Sequence[_Node], ends: Sequence[_Node], name: str) -> Iterator[list[_Node]]:
    """From the first message to each of these."""
    size = sum(len(node.message.content) for node in tree)
    written = 0
    for end in ends:
        path = [end]
        while path[-1].above is not None:
            path.append(path[-1].above)
        length = sum(len(node.message.content) for node in path)
        written += length
        if written > MAX_EXPANSION * size:
            raise StudioError(
                f"{name}: the paths of a tree hold more than {MAX_EXPANSION} times its text.",
                hint="Learn the best path of each tree only.",
            )
        if length > MAX_ROW_BYTES:
            end.fault = _TOO_LONG
        else:
            yield path[::-1]


def _conversation(path: Sequence[_Node]) -> Conversation:
    return checked_chat([node.message for node in path], set())


# field of a layout -> key of a message within a tree
_KEYS = {
    "id": "message_id",
    "parent": "parent_id",
    "text": "text",
    "role": "role",
    "rank": "rank",
    "deleted": "deleted",
    "review": "review_result",
    "state": "tree_state",
}


def _node(values: Mapping[str, Any], place: Place) -> _Node:
    text, spelling = values.get("text"), values.get("role")
    role = ROLE_OF.get(spelling.strip().lower(), "") if isinstance(spelling, str) else ""
    node = _Node(Message(role, text if isinstance(text, str) else ""), _rank(values.get("rank")), place)
    state = values.get("tree_state")
    if isinstance(state, str) and state not in ("", READY):
        node.fault = LeftOutError(f"its tree isn't ready: {named(state)}")
    elif _says(values.get("deleted"), "true"):
        node.fault = _DELETED
    elif _says(values.get("review_result"), "false"):
        node.fault = _NOT_PASSED
    elif role not in ("user", "assistant"):
        known = isinstance(spelling, str)
        node.fault = RecordError(f"unknown role {named(str(spelling))}" if known else "no role")
    elif not isinstance(text, str):
        node.fault = RecordError(f"the text is {in_words(text)}, not text")
    elif not text.strip():
        node.fault = RecordError("no text")
    return node


def _rank(value: Any) -> float:
    """0 is the best; what has none comes last."""
    try:
        rank = float(value) if isinstance(value, int | float | str | Spelled) else math.inf
    except ValueError:
        rank = math.inf
    return math.inf if math.isnan(rank) else rank


def _says(value: Any, word: str) -> bool:
    return isinstance(value, bool | str) and str(value).strip().lower() == word


def _object(value: Any) -> Mapping[str, Any]:
    if isinstance(value, RecordError):
        raise value
    if not isinstance(value, dict):
        raise RecordError(f"{in_words(value)} in place of an object with columns")
    return value
