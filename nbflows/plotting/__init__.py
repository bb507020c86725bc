"""The figures of the lessons, in one style: functions that take data, draw it and return the figure."""

from nbflows import extras

with extras.explained():
    import matplotlib  # noqa: F401

# Lessons call every figure as `plotting.NAME`; each file lists its own in `__all__`.
from nbflows.plotting.autoregressive import *
from nbflows.plotting.choosing import *
from nbflows.plotting.comparisons import *
from nbflows.plotting.conditional import *
from nbflows.plotting.couplings import *
from nbflows.plotting.curves import *
from nbflows.plotting.density import *
from nbflows.plotting.dequantization import *
from nbflows.plotting.family import *
from nbflows.plotting.glow import *
from nbflows.plotting.images import *
from nbflows.plotting.levels import *
from nbflows.plotting.masked import *
from nbflows.plotting.mixture import *
from nbflows.plotting.noise import *
from nbflows.plotting.page import *
from nbflows.plotting.residual import *
from nbflows.plotting.translation import *
