"""No test asks the real Hub: a name that is no folder must come from a cache, or from a server that
the test itself has started."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("HF_TOKEN", None)
