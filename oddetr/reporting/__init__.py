"""`oddetr report`: what a run came to, on one page."""
