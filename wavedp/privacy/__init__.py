"""Privacy of sensitive images: budget accounting, the private fit, and the ledger of every use."""
