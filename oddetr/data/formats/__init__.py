"""Readers of COCO, Pascal VOC and YOLO layouts."""
