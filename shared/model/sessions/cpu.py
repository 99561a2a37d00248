"""Number of CPUs that this process may use, from its affinity and its cgroup quota."""

import math
import os
from pathlib import Path


def cpu_threads(root: Path = Path("/")) -> int:
    """Return the number of CPUs that this process may use: the smaller of affinity and quota.

    A fraction is rounded down, because with one thread too many the kernel throttles all threads.

    Args:
        root: Folder with ``proc`` and ``sys``.
    """
    quotas = [math.inf]
    memberships = (root / "proc/self/cgroup").read_text().splitlines()
    for _, controllers, path in (line.split(":", 2) for line in memberships):
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        own = top / path.lstrip("/")
        # Any ancestor may have the quota, and inside a container only some of them are visible.
        quotas += [_read_quota(group) for group in (own, *own.parents) if group.is_relative_to(top)]
    return max(1, int(min(len(os.sched_getaffinity(0)), *quotas)))


def _read_quota(group: Path) -> float:
    version_2, version_1 = group / "cpu.max", group / "cpu.cfs_quota_us"
    if version_2.is_file():
        quota, period = version_2.read_text().split()
    elif version_1.is_file():
        quota, period = version_1.read_text().strip(), (group / "cpu.cfs_period_us").read_text()
    else:
        return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)
