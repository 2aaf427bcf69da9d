"""What a node asks of its machine, whatever it was started with."""

from __future__ import annotations

import resource
import subprocess
import sys

FEW = 256
STARTED = f"""
import resource
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, ({FEW}, most))
from node.process import prepare
prepare()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def test_a_service_that_was_given_few_files_takes_as_many_as_it_may() -> None:
    done = subprocess.run([sys.executable, "-c", STARTED], capture_output=True, check=True)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert int(done.stdout) == (65_536 if most == resource.RLIM_INFINITY else min(65_536, most))
