"""A Ray cluster: how it is joined, or started on this machine and ended, quietly and without waiting for what is not there."""
from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from ._base import StudyError

_ANSWERS, _JOINS = 5.0, 60.0            # seconds that an address has to answer, and that joining its cluster may take
_TRIES = 2                              # at starting one, for which Ray has 30 seconds, which a busy machine may exceed
_STORE = 100 << 20                      # bytes of a local cluster's object store, through which rows travel and little else
# No reports to anybody, no chatter. The last: Ray is not to announce how it will hide GPUs one day; fits without one are told.
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_QUIET = dict(log_to_driver=False, logging_level=logging.ERROR)


def imported() -> ModuleType:
    """The package. Raises StudyError where it is not installed."""
    try:
        with environment():
            import ray
    except ImportError as error:
        raise StudyError(f"engine: ray cannot be imported ({error}); pip install 'probes[study]', or leave engine out") \
            from error
    return ray


@contextmanager
def environment() -> Iterator[None]:
    """Within the block what Ray starts is told to be quiet, as far as the user's own environment says nothing."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if before[name] is None})
    try:
        yield
    finally:
        for name in (name for name, value in before.items() if value is None):
            os.environ.pop(name, None)


_TRIAL = ("import logging, sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.CRITICAL); "
          "ray.shutdown(); print('joined')")


def check_address(address: str) -> None:
    """Raises StudyError where no cluster can be joined at an address.

    Ray itself waits for minutes and then ends the process, so a process of its own goes first.
    """
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _ANSWERS).close()
        except (OSError, OverflowError) as error:
            raise StudyError(f"address: nothing answers at {address} ({error}); is the cluster up? `ray start --head` says its "
                             "address. Leave address out for a cluster of this machine alone") from error
    with environment():
        trial = subprocess.Popen([sys.executable, "-c", _TRIAL, address], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 text=True)
    try:
        said, reason = trial.communicate(timeout=_JOINS)
    except subprocess.TimeoutExpired:
        said, reason = "", f"no answer within {_JOINS:.0f} seconds"
    finally:
        trial.kill()
        trial.wait()
    if "joined" not in said:
        last = (reason.strip().splitlines() or ["it ended without a word"])[-1]
        raise StudyError(f"address: no Ray cluster can be joined at {address} ({last}); is it up, of this Ray version, and is "
                         "this machine one of it (`ray status` there says)? Leave address out for a cluster of this machine "
                         "alone")


@contextmanager
def joined(ray: ModuleType, address: str | None) -> Iterator[None]:
    """Within the block this process is in the cluster at `address`, or in one of its own. What the block began ends with it,
    and nothing else does."""
    if ray.is_initialized():
        yield
        return
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if main else None        # which Ray replaces
    try:
        _join(ray, address)
        yield
    finally:
        ray.shutdown()
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)


def _join(ray: ModuleType, address: str | None) -> None:
    own = dict(num_cpus=_processors(), include_dashboard=False, object_store_memory=_STORE) if address is None else {}
    for left in reversed(range(_TRIES if own else 1)):
        try:
            with environment():
                ray.init(address=address or "local", **own, **_QUIET)
            return
        except Exception as error:          # noqa: BLE001 (Ray raises that very class)
            ray.shutdown()
            if left and ("timed out" in str(error) or "Failed to start" in str(error)):
                continue
            said = " ".join(str(error).split())[:300]
            raise StudyError(f"engine: Ray could not {'start here' if own else 'join ' + str(address)} ({said}); the rows that "
                             "are done are kept. Is the machine too busy? Try again, or leave engine out") from error


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
