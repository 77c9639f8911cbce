"""Cost of a codec: parameters, multiply-adds, memory and time, and tables of variants."""
