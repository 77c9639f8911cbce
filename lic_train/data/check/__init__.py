"""``python -m lic_train.data.check``: decode a data set before training on it."""
