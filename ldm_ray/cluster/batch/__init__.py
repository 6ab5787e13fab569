"""Pools of tasks and actors for prepare, embed, evaluate and predict."""
