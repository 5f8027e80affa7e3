"""The sweep conductor: axes become trials, trials become unique stages, Ray runs each stage once."""
