"""oddetr inside other people's software."""
