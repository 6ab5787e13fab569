"""Chains of steps: the demo, the pipeline, Table 1, the export of a trial, and what a run's folder says of itself."""
