"""Rate and distortion: metrics, curves and Bjontegaard deltas."""
