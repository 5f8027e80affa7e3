"""Measurements that run stages of the chain or read finished studies: `python -m wavedp.reports.<name>`.

reconstruction     reconstruction error of each tokenizer           results/reconstruction
super_resolution   upscalers on photographs                         results/super_resolution
samplers           errors of blur samplers, given the exact score   results/blur_samplers
forward, reverse   effect of blur, and images during sampling       results/blur_forward, results/blur_reverse
agreement          our metrics against independent programs         results/agreement
spectrum           power spectra of a study's samples               results/<study>/spectra.jsonl
"""
