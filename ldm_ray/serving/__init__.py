"""Answers over HTTP: batching, the API, its errors, page and client. `cluster/serve` puts these on a cluster."""
