"""Where mpiexec is, and how the tests start it."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# The launcher of the package openmpi is beside Python; another MPI's is on the PATH.
MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
    reason='needs mpiexec and mpi4py: pip install -e ".[distributed]"',
)


# Open MPI refuses root unless told twice, and more ranks than cores; others ignore these.
RANK_SETTINGS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1]),
}  # fmt: skip
