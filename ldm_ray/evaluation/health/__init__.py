"""Checks of a trained model's parts: what is measured of them, and when they have failed."""
