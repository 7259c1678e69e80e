"""The revision of the internal contracts, exchanged in `Hello` and `Welcome`.

Raised with every change of `ssjf.engine.v1` or `ssjf.predictor.v1` that an older
peer would misread. Peers of different revisions refuse each other.
"""

from typing import Final

SCHEMA_REVISION: Final = 2
