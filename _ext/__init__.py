"""The compiled core: packets in batches, no Python object per packet. See ARCHITECTURE.md."""
