"""The command line, one file a command: parse, call one function, show what came out."""
