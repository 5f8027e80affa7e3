"""Diffusion whose forward process blurs while adding noise: coefficients, and a diffusers scheduler and pipeline."""
