"""Tables that grow: CSV rows appended as results come, whole after whatever ended the run, and one process at a time."""
from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ._files import OutputError, write_text_atomically


class Rows:
    """A CSV file whose rows are appended one by one.

    Args:
        path: of the file; read if it is there, made by the first `append`
        columns: its header
    """

    def __init__(self, path: Path, columns: Sequence[str]):
        self.path, self.columns = path, list(columns)

    def read(self) -> list[dict[str, str]]:
        """The rows that are there, without one that was cut short. Raises ValueError where the columns are others."""
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return []
        whole = text[:text.rfind(b"\n") + 1].decode(errors="replace")
        reader = csv.DictReader(io.StringIO(whole, newline=""))
        if reader.fieldnames is None:
            return []
        if list(reader.fieldnames) != self.columns:
            raise ValueError(f"output: {self.path} has the columns {', '.join(reader.fieldnames)}; expected "
                             f"{', '.join(self.columns)}; choose another folder with --output, or --overwrite true")
        return list(reader)

    def replace(self, rows: Sequence[Mapping[str, object]]) -> None:
        """These rows instead of all that are there."""
        write_text_atomically(self.path, self._text(rows, header=True))

    def append(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Adds rows, at once in the hands of the system."""
        try:
            with open(self.path, "ab") as file:
                file.write(self._text(rows, header=file.tell() == 0).encode())
        except OSError as error:
            raise OutputError(error.errno, error.strerror or str(error), str(self.path)) from error

    def _text(self, rows: Sequence[Mapping[str, object]], header: bool) -> str:
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, self.columns, lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()


@contextmanager
def holding(folder: Path, what: str) -> Iterator[None]:
    """Makes a folder and keeps it for this process. Raises ValueError where another holds it, OutputError where it cannot be
    written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"output: another `probes {what}` is writing {folder} at this moment; wait for it, or choose another "
                         "folder with --output") from None
    except OSError as error:
        blocked = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = "it is a file, or its folder is" if blocked else error.strerror or str(error)
        raise OutputError(error.errno, reason, str(folder)) from error
    try:
        yield
    finally:
        lock.release()          # the file stays: removing it would let two processes hold two locks


def check_names(names: Sequence[str], what: str) -> None:
    """Raises ValueError for names that are no plain relative paths, which files are written under, and for two alike."""
    seen: set[str] = set()
    for name in names:
        parts = name.replace("\\", "/").split("/")
        if not all(parts) or {".", ".."} & set(parts) or not name.isprintable() or ":" in parts[0]:
            raise ValueError(f"data: {what} calls an image {name!r}; expected a relative path without '..', since files are "
                             "named after it")
        if name in seen:
            raise ValueError(f"data: {what} calls two images {name!r}; expected names that differ")
        seen.add(name)
