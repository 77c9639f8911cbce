"""Hydra's configuration groups, installed as ``lic_train.conf``."""
