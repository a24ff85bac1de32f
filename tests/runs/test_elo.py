"""Ratings of players from their games."""

from __future__ import annotations

import itertools

import pytest

from qlora_studio.runs.elo import Game, elo_ratings, win_matrix


def by_hand(games, players):
    """One order, as a chess club does it."""
    ratings = [1000.0] * players
    for first, second, score in games:
        expected = 1 / (1 + 10 ** ((ratings[second] - ratings[first]) / 400))
        ratings[first] += 32 * (score - expected)
        ratings[second] -= 32 * (score - expected)
    return ratings


def test_one_game_moves_half_of_k():
    winner, loser = elo_ratings([Game(0, 1, 1.0)], 2, orders=10)
    assert winner == (1016.0, 1016.0, 1016.0)
    assert loser == (984.0, 984.0, 984.0)


def test_the_rating_is_the_mean_over_all_orders():
    games = [Game(0, 1, 1.0), Game(1, 2, 0.5), Game(2, 0, 1.0), Game(0, 1, 0.0)]
    orders = [by_hand(order, 3) for order in itertools.permutations(games)]
    means = [sum(ratings) / len(orders) for ratings in zip(*orders, strict=True)]
    found = elo_ratings(games, 3)
    assert [rating.elo for rating in found] == pytest.approx(means, abs=0.3)
    for player, rating in enumerate(found):
        ends = [ratings[player] for ratings in orders]
        assert min(ends) - 1e-9 <= rating.low <= rating.elo <= rating.high <= max(ends) + 1e-9


def test_the_same_games_give_the_same_ratings():
    games = [Game(0, 1, 1.0), Game(0, 1, 0.0), Game(0, 1, 1.0)]
    assert elo_ratings(games, 2) == elo_ratings(games, 2)


def test_without_games_all_stay_where_they_start():
    assert elo_ratings([], 2) == [(1000.0, 1000.0, 1000.0)] * 2


def test_a_tie_is_half_a_game_won_by_both():
    assert win_matrix([Game(0, 1, 1.0), Game(1, 0, 0.5), Game(1, 2, 0.0)], 3) == [
        [0.0, 1.5, 0.0],
        [0.5, 0.0, 0.0],
        [0.0, 1.0, 0.0],
    ]
