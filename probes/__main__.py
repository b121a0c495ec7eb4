"""`python -m probes`, which is how launchers start it: accelerate launch --multi_gpu -m probes fit …"""
import sys

from .cli import main

sys.exit(main())
