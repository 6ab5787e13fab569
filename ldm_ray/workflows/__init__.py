"""Chains of steps: the demo, the pipeline, Table 1 and the export of a trial; and the status of a folder."""
