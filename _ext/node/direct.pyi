from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.io.writer import CaptureEncoder
from vxlanfast._ext.node.encap import Encap

def encap_encode(
    node: Encap, encoder: CaptureEncoder, batch: PacketBatch, start: int = 0, ordinal: int = 0
) -> int | None: ...
