"""How strong players are, told from games between two of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

START = 1000.0
K = 32.0  # how far one game moves a rating at most
ORDERS = 10_000
_SCALE = 400.0  # points that make a win ten times as likely
_SEED = 0  # the same games give the same ratings


class Game(NamedTuple):
    """score: of the first player, 1 won, 0 lost, 0.5 neither."""

    first: int
    second: int
    score: float


class Rating(NamedTuple):
    """elo: mean over the orders; low, high: 95 % of the orders lie between."""

    elo: float
    low: float
    high: float


def elo_ratings(games: Sequence[Game], players: int, orders: int = ORDERS) -> list[Rating]:
    """Elo depends on the order in which games are counted: it is computed in many, drawn by lot.

    source: QLoRA, arXiv:2305.14314, section 5.2: start 1000, K = 32, 10,000 orders
    """
    import numpy as np  # not at the window's start

    ratings = np.full((orders, players), START)
    drawn = np.random.default_rng(_SEED)
    # Of each order a line: the places of all games, shuffled.
    places = drawn.permuted(np.tile(np.arange(len(games), dtype=np.int32), (orders, 1)), axis=1)
    first, second, score = (np.array([game[column] for game in games]) for column in range(3))
    lines = np.arange(orders)
    for place in places.T:
        one, other = first[place].astype(np.intp), second[place].astype(np.intp)
        expected = 1 / (1 + 10 ** ((ratings[lines, other] - ratings[lines, one]) / _SCALE))
        moved = K * (score[place] - expected)
        ratings[lines, one] += moved
        ratings[lines, other] -= moved
    low, high = np.percentile(ratings, [2.5, 97.5], axis=0)
    return [
        Rating(float(elo), float(least), float(most))
        for elo, least, most in zip(ratings.mean(axis=0), low, high, strict=True)
    ]


def win_matrix(games: Sequence[Game], players: int) -> list[list[float]]:
    """[player][other]: games won against the other, a tie as half a game."""
    won = [[0.0] * players for _ in range(players)]
    for game in games:
        won[game.first][game.second] += game.score
        won[game.second][game.first] += 1 - game.score
    return won
