"""Alignment scores: one file each. Low means that an action looks offline-like."""

from stratdiff.scores.base import SCORES, Score

__all__ = ["SCORES", "Score"]
