"""How rows and answers are written in a body."""
