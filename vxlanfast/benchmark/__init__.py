"""The side-by-side benchmark: this build and its peers at the same job, round after round, on this machine.

``inputs`` makes the captures, ``peers`` knows who can do what, ``runner`` takes turns, ``memory`` measures
without files, ``report`` shows it. ``vxlanfast bench`` is its command line.
"""
