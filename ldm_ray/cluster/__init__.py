"""The Ray edge, and all of it: nothing outside this folder imports Ray."""
