"""Searches over settings: their space, their state at any URL, and what came of them. No Ray here."""
