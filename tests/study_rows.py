"""Studies for tests: rows that nobody measured, for what is made of rows alone, and a grid of four fits."""
from probes.studies import Cell, Study, Verdict, points
from probes.studies._base import STYLEGAN2
from probes.studies._folder import TIMING, columns
from probes.studies._page import table


class Toy(Study):
    """Four fits, told apart by their rank."""

    name, question, finding, rule, tags = "toy", "does it run?", "It does.", "it ran.", ("colour",)
    seeds = (1, 2)

    def cells(self, small):
        return [Cell(dict(generator=STYLEGAN2, intrinsic="normal", rank=r), dict(colour="red" if r < 3 else "blue"))
                for r in ((1, 2) if small else (1, 2, 3, 4))]

    def plot(self, rows):
        return b"plot of %d" % len(rows)

    def tables(self, rows):
        return table(["rank", "skill"], [(p.at["rank"], p) for p in points(rows, "rank")])

    def verdict(self, rows):
        return Verdict("reproduced", f"{len(rows)} rows.")


TOY = Toy()


def row(study, skill, margin=0.02, seed=0, **given):
    """A finished row with what is given, on the generator's card where it says nothing else."""
    given = dict(generator=STYLEGAN2, intrinsic="normal", family="stylegan2", method="lora", teacher="scenes",
                 weights="pretrained", rank=8, scope="affine", samples=96, steps=60, n=32, against="scenes") | given
    key = Cell({k: v for k, v in given.items() if v is not None}, dict(seed=seed)).key
    made = dict(key=key, study=study.name, status="ok", seed=seed, skill=skill, skill_low=skill - margin,
                skill_high=skill + margin, protocol="normal-per-image/1", versions="probes 0.1.0", hardware="CPU", **given)
    return {**dict.fromkeys(columns(study)), **made}


def lines(folder):
    return (folder / "rows.csv").read_bytes().splitlines(keepends=True)


def comparable(row):
    return {k: v for k, v in row.items() if k not in TIMING}
