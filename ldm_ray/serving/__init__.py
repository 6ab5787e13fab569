"""Answers over HTTP: batching, the API and its errors. Ray puts these on a cluster in `cluster/serve`."""
