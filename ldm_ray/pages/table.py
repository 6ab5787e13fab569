"""A printed table of a page."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ScoreTable:
    """One printed table."""

    title: str
    head: list[str]
    body: list[list[str]]
    meaning: str
