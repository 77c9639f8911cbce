"""A package of somebody else with a model for lic_train."""
