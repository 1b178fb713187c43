"""What the norm layers cost, and whether MMDetection's detectors work with them."""
