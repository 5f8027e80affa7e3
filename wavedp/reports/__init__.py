"""Measurements that run stages of the chain or read finished studies: `python -m wavedp.reports.<name>`.

reconstruction     reconstruction error of each tokenizer           runs/reconstruction
super_resolution   upscalers on photographs                         runs/super_resolution
samplers           errors of blur samplers, given the exact score   runs/blur_samplers
forward, reverse   effect of blur, and images during sampling       runs/blur_forward, runs/blur_reverse
agreement          our metrics against independent programs         runs/agreement
spectrum           power spectra of a study's samples               runs/<study>/spectra.jsonl
"""
