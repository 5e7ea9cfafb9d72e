"""Learns leanedge's cache plans and trains its embedded model; train/README.md is the manual."""
