"""Jinja's compiled templates, kept as Python keeps its compiled modules: compiling one costs more than rendering it."""

from contextlib import suppress
from pathlib import Path

import jinja2
from jinja2.bccache import Bucket


class KeptCompiled(jinja2.FileSystemBytecodeCache):
    """In `__pycache__`, by name and content of the template; where nobody may write, nothing is kept."""

    def __init__(self) -> None:
        super().__init__(str(Path(__file__).parent / "__pycache__"))

    def dump_bytecode(self, bucket: Bucket) -> None:
        with suppress(OSError):
            super().dump_bytecode(bucket)
