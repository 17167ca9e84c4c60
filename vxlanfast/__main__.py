"""``python -m vxlanfast``."""

from vxlanfast.cli import main

main()
