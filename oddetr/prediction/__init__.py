"""`oddetr predict`: objects in images and videos, as pictures and tables."""
