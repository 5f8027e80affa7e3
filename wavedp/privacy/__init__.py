"""Where sensitive images meet the model: the budget (accounting), the fit (clipping, training) and its record (ledger)."""
