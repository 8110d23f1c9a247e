"""What layers and links cost."""
