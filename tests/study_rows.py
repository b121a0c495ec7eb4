"""Rows of studies that nobody measured, for tests of what is made of rows alone."""
from probes.studies import Cell
from probes.studies._folder import columns


def row(study, skill, margin=0.02, seed=0, **given):
    """A finished row with what is given, on the generator's card where it says nothing else."""
    given = dict(generator="stylegan2-scenes", intrinsic="normal", family="stylegan2", method="lora", teacher="scenes",
                 weights="pretrained", rank=8, scope="affine", samples=96, steps=60, n=32, against="scenes") | given
    key = Cell({k: v for k, v in given.items() if v is not None}, dict(seed=seed)).key
    made = dict(key=key, study=study.name, status="ok", seed=seed, skill=skill, skill_low=skill - margin,
                skill_high=skill + margin, protocol="normal-per-image/1", versions="probes 0.1.0", hardware="CPU", **given)
    return {**dict.fromkeys(columns(study)), **made}
