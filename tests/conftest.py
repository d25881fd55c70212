"""Settings of all tests."""

from hypothesis import settings

# The machine may be busy: how long an example takes is no property of the code.
settings.register_profile("aiq", deadline=None)
settings.load_profile("aiq")
