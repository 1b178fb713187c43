"""MMDetection's own detectors with UBN in the place of BatchNorm."""
