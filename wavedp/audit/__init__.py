"""Audit of the private fit's claim: attacks that must not succeed, and sabotage that must be noticed.

python -m wavedp.audit [--epsilon 1 4 10] [--canaries 1000] [--quick] [--results runs/audit]

bounds      lower bounds on ε from scores
evidence    measurements against claims
mechanism   one step of clipping and noise, hundreds of thousands of times
canaries    a thousand canaries in one fit, white box
membership  membership inference on the released weights
sabotage    fits that are broken on purpose
report      all parts together
"""
