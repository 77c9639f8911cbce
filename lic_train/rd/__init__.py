"""Rate and distortion: metrics, curves, Bjontegaard differences, and the style of their tables and figures."""
