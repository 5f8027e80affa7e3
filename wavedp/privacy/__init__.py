"""Where sensitive images meet the model: the budget, the fit and the ledger of every look."""
