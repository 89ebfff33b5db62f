"""The command line of wardround: each command has a file of its own here."""
