"""Measurements that drive the chain or read finished studies, each a command: `python -m wavedp.reports.<name>`.

reconstruction     what each tokenizer loses                        results/reconstruction
super_resolution   upscalers on photographs                         results/super_resolution
samplers           blur samplers against an exact score             results/blur_samplers
forward, reverse   what blur does, and how images come about        results/blur_forward, results/blur_reverse
agreement          our metrics against other people's programs      results/agreement
spectrum           power spectra of a study's samples               results/<study>/spectra.jsonl
"""
