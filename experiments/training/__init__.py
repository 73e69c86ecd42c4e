"""What all training runs share: checkpoints, the loop, its record, and devices that share a batch."""
