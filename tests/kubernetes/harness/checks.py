"""Assertions that all scenarios share."""


def equal(found, expected, what):
    if found != expected:
        raise AssertionError(f"{what}:\n  found    {found}\n  expected {expected}")
