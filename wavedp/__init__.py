"""wavedp: the science of coarse-to-fine private image generation.

Runs without ray and hydra, in a notebook or on a bare GPU machine. Start reading at `wavedp.stages`.
"""
