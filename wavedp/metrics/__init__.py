"""What a trial's images are worth: FID, KID and the accuracy of a classifier that learned from them alone.

Start at `wavedp.metrics.suite`: `make_reference`, `evaluate`, `names`.
"""
