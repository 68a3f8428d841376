"""Detections, COCO's scores, and the instability of the matching."""
