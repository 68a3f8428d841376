"""`matching.py`: the matcher; `detection.py`: the losses."""
