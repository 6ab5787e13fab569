"""Predictions for tables of conditions, in parts."""
