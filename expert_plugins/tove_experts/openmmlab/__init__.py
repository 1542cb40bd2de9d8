"""Experts of OpenMMLab's libraries: mmdet's detectors and segmenters, mmpretrain's backbones.

`ops` and `fallback` let mmdet run where mmcv has no compiled extension; `configs` and `checkpoints`
read what the libraries ship and save; `detectors` and `backbones` are the experts.
"""
