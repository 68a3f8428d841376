"""What is decided, and told, before the first step."""
