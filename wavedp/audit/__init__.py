"""Does the private fit keep its claim? Attacks that must not succeed, and sabotage that must be noticed.

python -m wavedp.audit [--epsilon 1 4 10] [--canaries 1000] [--quick] [--results results/audit]

bounds      from scores to lower bounds on ε
evidence    what was measured against what was claimed
mechanism   one step of clipping and noise, hundreds of thousands of times
canaries    a thousand canaries in one fit, white box
membership  membership inference on the released weights
sabotage    broken fits
report      all of it
"""
