"""Conformance suites that ship: subclass one in your own tests, and pytest tells whether your generator, tokenizer,
upscaler, metric, dataset or store keeps the promises that the rest of wavedp relies on."""
