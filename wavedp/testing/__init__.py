"""Conformance suites: pytest-style base classes that say what every dataset, store or method must do. To test your own,
write a class in your tests whose name begins with `Test`, derive it from a suite, and give it the attributes that the
suite's docstring names. The built-in ones pass the same suites in this repository's tests."""
