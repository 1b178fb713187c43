"""What a finished run leaves to look at: tables, curves, pictures."""
