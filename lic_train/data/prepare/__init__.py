"""``python -m lic_train.data.prepare``: write tiles of large pictures as shards."""
