"""``lic data check``: decode a data set before training on it."""
