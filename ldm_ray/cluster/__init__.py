"""The whole Ray edge: nothing outside this folder imports Ray."""
