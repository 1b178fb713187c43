"""What runs leave to look at: tables, curves, pictures, reports of comparisons."""
