"""Faults for a job under test, put in from outside: the product has no hooks for them.

Python imports a module of this name when it starts, if its folder is on ``PYTHONPATH``; so all
processes of a job load it. ``FAULTS`` in the environment is a JSON list of what to do to which
function, named as ``module:attribute``::

    {"at": ..., "do": "stop", "file": ..., "side": "before", "nth": 2, "when": "seal.json"}
    {"at": ..., "do": "count", "file": ...}
    {"at": ..., "do": "skip"}
    {"at": ..., "do": "add", "value": 86400}

``stop`` writes the pid to ``file`` and stands still while that is there, before or after the nth
call, counted over all processes, whose arguments mention ``when``. ``count`` adds a line to
``file`` at every call. ``add`` adds to what the function returns.
"""

import functools
import importlib.machinery
import json
import os
import sys
import time
from pathlib import Path


class Patcher:
    """A finder that changes functions as soon as their module is executed."""

    def __init__(self, faults):
        self._faults = faults

    def find_spec(self, name, path, target=None):
        faults = [fault for fault in self._faults if fault["at"].partition(":")[0] == name]
        if not faults:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def execute_and_patch(module):
            execute(module)
            for fault in faults:
                patch(module, fault)

        spec.loader.exec_module = execute_and_patch
        return spec


def patch(module, fault):
    *owners, name = fault["at"].partition(":")[2].split(".")
    owner = functools.reduce(getattr, owners, module)
    function = getattr(owner, name)

    @functools.wraps(function)
    def patched(*args, **kwargs):
        if fault["do"] == "skip":
            return None
        if fault["do"] == "add":
            return function(*args, **kwargs) + fault["value"]
        if fault["do"] == "count":
            with open(fault["file"], "a") as file:
                file.write(f"{os.getpid()}\n")
            return function(*args, **kwargs)
        meant = fault["when"] in repr(args) and ordinal(fault["file"]) == fault["nth"]
        if meant and fault["side"] == "before":
            stand_still(fault["file"])
        result = function(*args, **kwargs)
        if meant and fault["side"] == "after":
            stand_still(fault["file"])
        return result

    setattr(owner, name, patched)


def ordinal(file):
    """Return the number of this call among those of all processes."""
    number = 1
    while True:
        try:
            os.close(os.open(f"{file}.{number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            number += 1
        else:
            return number


def stand_still(file):
    Path(f"{file}.pid").write_text(str(os.getpid()))
    os.replace(f"{file}.pid", file)
    while os.path.exists(file):
        time.sleep(0.02)


if "FAULTS" in os.environ:
    all_faults = json.loads(os.environ["FAULTS"])
    sys.meta_path.insert(0, Patcher(all_faults))
    for early in all_faults:  # Python itself has imported a few modules by now
        if (loaded := sys.modules.get(early["at"].partition(":")[0])) is not None:
            patch(loaded, early)
