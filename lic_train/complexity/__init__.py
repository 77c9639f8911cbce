"""Complexity of a codec: parameters, multiply-adds, memory and time; tables of a paper's variants."""

from lic_train.complexity.count import count_macs, count_parameters, multiply_adds

__all__ = ["count_macs", "count_parameters", "multiply_adds"]
