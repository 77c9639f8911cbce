"""A trained model as a codec for pictures, in Python and on the command line."""
