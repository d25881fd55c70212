"""Settings of all tests."""

import pytest
from hypothesis import settings

# The machine may be busy: how long an example takes is no property of the code.
settings.register_profile("aiq", deadline=None)
settings.load_profile("aiq")


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory):
    """Keep what commands keep out of the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
