"""`oddetr demo`: a local page to drop images on."""
