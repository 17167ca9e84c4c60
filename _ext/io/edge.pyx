"""The Python side of a live way in and out."""


cdef class LiveEdge:
    """What a Poller reads from and writes to. Made by a subclass: TapEdge, UdpEdge."""

    def fileno(self):
        """Its file descriptor, -1 where it has none."""
        return -1 if self.e == NULL else self.e.fd

    @property
    def broken(self):
        """errno that ended it; 0: it lives."""
        return 0 if self.e == NULL else self.e.broken

    def counters(self):
        """Rows and bytes both ways, what they stand for on a wire (segments), and what was lost, by name."""
        if self.e == NULL:
            return {}
        return dict(self.e.n)
