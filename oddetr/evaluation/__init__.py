"""Detections, COCO metrics and matching instability."""
