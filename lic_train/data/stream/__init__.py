"""Training stream: order, crops, flips and buffers as pure functions of the seed."""
