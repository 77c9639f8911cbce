"""What a codec costs: parameters, multiply-adds, memory and time, and a table of its variants."""

from lic_train.complexity.count import count_macs, count_parameters, multiply_adds

__all__ = ["count_macs", "count_parameters", "multiply_adds"]
