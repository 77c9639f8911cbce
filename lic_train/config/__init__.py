"""The run configuration: composition, validation, names on the command line."""
