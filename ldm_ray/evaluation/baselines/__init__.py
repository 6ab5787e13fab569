"""Baselines without a network, and the planted truth, as rows of every table."""
