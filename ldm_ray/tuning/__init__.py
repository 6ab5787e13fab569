"""Searches over settings: their space, their state at any URL, and their results. No Ray here."""
