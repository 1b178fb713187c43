"""What layers and synchronisation cost."""
