"""The scheduling core: pure, no I/O, time passed in.

The live gateway and the simulator drive this same code. It imports the standard
library only.
"""
