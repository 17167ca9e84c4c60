"""Filtering of a batch by a tcpdump expression: libpcap compiles it, its bpf_filter() runs over the rows."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from vxlanfast._ext.batch cimport Columns, PacketBatch, row_body, row_head
from vxlanfast._ext.verdict cimport PASS, VERDICT_COUNT


cdef inline const BpfInsn *program_find(const FilterProgram *programs, uint32_t n, uint32_t link) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if programs[i].link == link:
            return programs[i].insns
    return NULL


cdef uint32_t filter_look(Columns *c, const FilterProgram *programs, uint32_t n_programs, uint16_t *unknown,
                          uint64_t *joined_len) noexcept nogil:
    """Before anything is decided: the link types without a program, and the longest frame to be put together."""
    cdef uint32_t i, k, n = 0, last = 0xFFFFFFFFU, rows = c.n
    cdef uint64_t longest = 0
    cdef const uint16_t *link = c.link
    cdef const uint8_t *head_len = c.head_len
    cdef const uint8_t *verdict = c.verdict
    for i in range(rows):
        if verdict[i] != PASS:
            continue
        if head_len[i] and <uint64_t>head_len[i] + c.len[i] > longest:
            longest = <uint64_t>head_len[i] + c.len[i]
        if link[i] == last:
            continue
        last = link[i]
        if program_find(programs, n_programs, last) != NULL:
            continue
        for k in range(n):
            if unknown[k] == last:
                break
        else:
            if n < FILTER_UNKNOWN_MAX:
                unknown[n] = <uint16_t>last
                n += 1
    joined_len[0] = longest
    return n


cdef void filter_rows(Columns *c, bpf_filter_t run, const FilterProgram *programs, uint32_t n_programs,
                      uint8_t drop_verdict, uint8_t *joined, uint64_t *counts) noexcept nogil:
    cdef uint32_t i, n, last = 0xFFFFFFFFU, rows = c.n
    cdef uint64_t passed = 0, dropped = 0
    cdef const BpfInsn *insns = NULL
    cdef const uint8_t *p
    cdef const uint16_t *link = c.link
    cdef const uint8_t *head_len = c.head_len
    cdef uint8_t *verdict = c.verdict
    for i in range(rows):
        if verdict[i] != PASS:
            continue
        if link[i] != last:
            last = link[i]
            insns = program_find(programs, n_programs, last)
        p = row_body(c, i)
        n = c.len[i]
        if head_len[i]:
            memcpy(joined, row_head(c, i), head_len[i])
            memcpy(joined + head_len[i], p, n)
            p = joined
            n += head_len[i]
        if run(insns, p, c.wire_len[i], n):
            passed += 1
        else:
            verdict[i] = drop_verdict
            dropped += 1
    counts[<uint32_t>PASS] += passed
    counts[drop_verdict] += dropped


cdef class Filter:
    """Gives ``drop_verdict`` to the rows whose frame a classic BPF program does not take.

    ``programs``: the instructions (as ``struct bpf_insn`` lies in memory) by LINKTYPE_ number, copied. ``address``:
    of libpcap's ``bpf_filter``. Neither can be checked here: programs must have passed ``bpf_validate``, and the
    library must stay loaded. One thread at a time.
    """

    def __cinit__(self, programs, size_t address, int drop_verdict):
        if address == 0:
            raise ValueError("address = 0: that of bpf_filter is needed")
        if not 0 < drop_verdict < VERDICT_COUNT:
            raise ValueError(f"drop_verdict = {drop_verdict}: 1 to {VERDICT_COUNT - 1}")
        self.run = <bpf_filter_t>address
        self.drop_verdict = drop_verdict
        for link, insns in dict(programs).items():
            self.add_program(link, insns)

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.n_programs):
            free(self.programs[i].insns)
        free(self.programs)
        free(self.joined)

    def add_program(self, link, bytes insns not None):
        """The instructions for frames of LINKTYPE_ ``link``, in place of those it had."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(insns)
        cdef FilterProgram *grown
        cdef BpfInsn *copy
        cdef uint32_t i, number
        if not 0 <= link <= 0xFFFF:
            raise ValueError(f"link type {link}: 0 to 65535")
        if size % sizeof(BpfInsn) or not 0 < size <= <Py_ssize_t>(FILTER_INSNS_MAX * sizeof(BpfInsn)):
            raise ValueError(f"{size} bytes of instructions: 1 to {FILTER_INSNS_MAX} of {sizeof(BpfInsn)} bytes")
        self._require_idle()
        number = link
        copy = <BpfInsn *>malloc(size)
        if copy == NULL:
            raise MemoryError
        memcpy(copy, PyBytes_AS_STRING(insns), size)
        for i in range(self.n_programs):
            if self.programs[i].link == number:
                free(self.programs[i].insns)
                self.programs[i].insns = copy
                return
        grown = <FilterProgram *>realloc(self.programs, (self.n_programs + 1) * sizeof(FilterProgram))
        if grown == NULL:
            free(copy)
            raise MemoryError
        self.programs = grown
        grown[self.n_programs].link = number
        grown[self.n_programs].insns = copy
        self.n_programs += 1

    cdef int _require_idle(self) except -1:
        if self.busy:
            raise RuntimeError("the filter is at work in another thread: one each")
        return 0

    def process(self, PacketBatch batch not None):
        """Decide the rows with verdict PASS, and return ``()``.

        Or, where rows have a link type that no program is for: decide nothing, and return those link types.
        """
        cdef uint16_t unknown[FILTER_UNKNOWN_MAX]
        cdef uint64_t joined_len
        cdef uint32_t n
        cdef uint8_t *grown
        self._require_idle()
        self.busy = True
        try:
            with nogil:
                n = filter_look(&batch.c, self.programs, self.n_programs, unknown, &joined_len)
            if n:
                return tuple([unknown[i] for i in range(n)])
            if joined_len > self.joined_cap:
                grown = <uint8_t *>realloc(self.joined, joined_len)
                if grown == NULL:
                    raise MemoryError(f"no room for a frame of {joined_len} bytes")
                self.joined = grown
                self.joined_cap = joined_len
            with nogil:
                filter_rows(&batch.c, self.run, self.programs, self.n_programs, self.drop_verdict, self.joined,
                            self.counts)
        finally:
            self.busy = False
        return ()

    @property
    def links(self):
        """The link types there are programs for."""
        return tuple([self.programs[i].link for i in range(self.n_programs)])

    def counters(self):
        """Rows by verdict since the start: ``{Verdict: rows}`` of those that occur."""
        from vxlanfast._ext.verdict import Verdict
        return {Verdict(i): self.counts[i] for i in range(VERDICT_COUNT) if self.counts[i]}
