"""What all scenarios assert with."""


def equal(found, expected, what):
    if found != expected:
        raise AssertionError(f"{what}:\n  found    {found}\n  expected {expected}")
