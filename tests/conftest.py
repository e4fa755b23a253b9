"""No test asks the real Hub, or finds what its user has in the cache: a name that is no folder
comes from a cache or a server that the test itself has made."""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_CACHE"] = os.path.join(tempfile.gettempdir(), "minigpt-tests-no-hub-cache")
os.environ.pop("HF_TOKEN", None)
