"""Conformance suites: pytest-style base classes whose tests every dataset, store or method must pass. To test your own,
derive a class whose name begins with `Test` from a suite, and give it the attributes that the suite's docstring names.
The built-in datasets, stores and methods pass the same suites in this repository's tests."""
