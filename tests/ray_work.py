"""Work for tests of the Ray engine: quick, and with a mark of every time it was begun. The cluster's workers import this."""
import os
import time
from dataclasses import dataclass

from probes.studies._work import Work


@dataclass(frozen=True)
class Marked(Work):
    """Takes `seconds` and returns a row. Rank 99 ends its process."""

    seconds: float = 0.0

    def __call__(self, cell):
        import ray
        import torch

        place = self.fits / cell.key
        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "here"
        with open(self.fits.parent / "calls", "a") as file:
            file.write(f"{cell.key} {node}\n")
        if cell.fit["rank"] == 99:
            os._exit(9)
        (place / "adapter").mkdir(parents=True, exist_ok=True)
        (place / "adapter" / "weights").write_text(str(cell.fit["rank"]))
        (place / "training-state").write_text("half")
        time.sleep(self.seconds)
        return {**self._asked(cell), "status": "ok", "skill": cell.fit["rank"] / 10, "wall_seconds": self.seconds,
                "parameters": torch.get_num_threads(), "hardware": node, "versions": str(os.getpid()), "detector": str(place)}


class Doomed(Marked):
    """Never ends on the machine that the file `doomed` names, but for its first time there; elsewhere, not before that."""

    def __call__(self, cell):
        row = super().__call__(cell)
        doomed = (self.fits.parent / "doomed").read_text()
        while True:
            begun = [node for _, node in calls(self.fits.parent)].count(doomed)
            if begun == 1 if row["hardware"] == doomed else begun > 1:
                return row
            time.sleep(0.05)


def calls(folder):
    """[(key, node)] of every time that work was begun below `folder`."""
    return [tuple(line.split()) for line in (folder / "calls").read_text().splitlines()]
