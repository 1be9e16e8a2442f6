"""What is checked of files before they are published."""
