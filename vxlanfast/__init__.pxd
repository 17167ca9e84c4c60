"""What other Cython code usually wants: ``from vxlanfast cimport PacketBatch, Columns``. The rest is in vxlanfast._ext."""
from vxlanfast._ext.batch cimport Columns, PacketBatch, row_at, row_body, row_count, row_head
from vxlanfast._ext.verdict cimport Verdict
