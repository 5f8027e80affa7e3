"""Diffusion whose forward process blurs as it adds noise: coefficients, scheduler and pipeline in diffusers' manner."""
