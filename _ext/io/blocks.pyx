"""pcapng out (draft-ietf-opsawg-pcapng): one block per row, and the sections, interfaces and other blocks that came with them."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport realloc
from libc.string cimport memcmp, memcpy, memset

from vxlanfast._ext.batch cimport Columns, row_at
from vxlanfast._ext.io.format cimport *
from vxlanfast._ext.io.target cimport COPY_SLACK, NO_INTERFACE, Target, gather
from vxlanfast._ext.verdict cimport PASS, DROP_OUTPUT_LINK_TYPE, verdict_in
from vxlanfast._ext.wire.endian cimport load_16, load_32, load_be32, store_16, store_32, store_64
from vxlanfast._ext.wire.link cimport LINK_ETHERNET


cdef uint32_t put_option(uint8_t *p, uint16_t code, const uint8_t *value, uint32_t n, bint big) noexcept nogil:
    store_16(p, code, big)
    store_16(p + 2, <uint16_t>n, big)
    memset(p + 4 + (n & ~<uint32_t>3), 0, 4)
    memcpy(p + 4, value, n)
    return 4 + pad4(n)


cdef bint is_stripped(Target *t, const uint8_t *value, uint16_t code, uint32_t n) noexcept nogil:
    if t.strip_pen == 0:
        return False
    if code == OPT_CUSTOM_BINARY:
        return n >= 4 and load_32(value, t.big) == t.strip_pen
    return (code == OPT_COMMENT and n >= t.strip_comment_len
            and memcmp(value, t.strip_comment, t.strip_comment_len) == 0)


cdef bint stripped_later(Target *t, const uint8_t *options, uint32_t n, uint32_t at, uint16_t kind) noexcept nogil:
    """Behind ``at`` another option of this kind is ours: this one is of an earlier decapsulation, and stays."""
    cdef uint32_t value = 0, length = 0
    cdef uint16_t code = 0
    while option_next(options, n, &at, &code, &value, &length, t.big):
        if code == kind and is_stripped(t, options + value, code, length):
            return True
    return False


cdef uint32_t put_options(Target *t, uint8_t *dst, Columns *c, uint32_t i, const uint8_t *options, uint32_t n,
                          bint altered, uint32_t drops) noexcept nogil:
    """The options of a row's block: those it came with, less what the frame's change made untrue, and its notes."""
    cdef uint32_t at = 0, value = 0, length = 0, used = 0, end
    cdef uint16_t code = 0
    cdef uint8_t number[8]
    cdef const uint8_t *note
    while option_next(options, n, &at, &code, &value, &length, t.big):
        if is_stripped(t, options + value, code, length) and not stripped_later(t, options, n, at, code):
            continue
        if altered and code == OPT_EPB_HASH:
            continue  # a hash of the frame as it was
        if altered and code == OPT_EPB_FLAGS and length == 4:
            # Bits 5-8: length of the FCS at the frame's end, which the outer length cut off.
            store_32(number, load_32(options + value, t.big) & ~<uint32_t>0x1E0, t.big)
            used += put_option(dst + used, code, number, 4, t.big)
            continue
        used += put_option(dst + used, code, options + value, length, t.big)
    if drops:
        store_64(number, drops, t.big)
        used += put_option(dst + used, OPT_EPB_DROPCOUNT, number, 8, t.big)
    if c.noted and c.note_len[i]:
        note = c.arena + c.note_off[i]
        at = 0
        end = c.note_len[i]
        while option_next(note, end, &at, &code, &value, &length, False):
            if code == OPT_CUSTOM_BINARY:
                # Its first four bytes are a number: the enterprise's.
                store_32(number, load_32(note + value, False), t.big)
                put_option(dst + used, code, note + value, length, t.big)
                memcpy(dst + used + 4, number, 4)
                used += 4 + pad4(length)
            else:
                used += put_option(dst + used, code, note + value, length, t.big)
    if used:
        memset(dst + used, 0, 4)  # opt_endofopt
        used += 4
    return used


cdef uint32_t out_interface(Target *t, Columns *c, uint32_t i) noexcept nogil:
    cdef uint32_t number
    if c.port_out[i] and c.noted:
        number = c.port_out[i] - 1  # an interface of its own, made for the row's tunnel
        return number if number < t.n_out else NO_INTERFACE
    if t.carry:
        if c.port_in[i] >= t.n_in:
            return NO_INTERFACE
        number = t.as_ethernet[c.port_in[i]]
        if number != NO_INTERFACE and t.out[number].link == c.link[i]:
            return number
        number = t.as_is[c.port_in[i]]
        if number != NO_INTERFACE and t.out[number].link == c.link[i]:
            return number
        return NO_INTERFACE
    for number in range(t.n_out):
        if t.out[number].link == c.link[i]:
            return number
    return NO_INTERFACE


cdef uint32_t encode_packet(Target *t, Columns *c, uint32_t i, uint32_t number) noexcept nogil:
    """One packet block at the buffer's end: 0, or the room it wants where there is too little."""
    cdef uint32_t n = c.head_len[i] + c.len[i], kind = 0, rec_len = 0, was_len = 0, n_options = 0, drops = 0, length
    cdef const uint8_t *rec = NULL
    cdef const uint8_t *options = NULL
    cdef bint altered = True
    cdef uint64_t units
    cdef uint8_t *p
    if c.rec_format == FORMAT_PCAPNG and c.rec[i] != NO_RECORD:
        rec = c.arena + c.rec[i]
        kind = load_32(rec, c.rec_big)
        rec_len = pad4(load_32(rec + 4, c.rec_big))
        if kind == BLOCK_SPB:
            altered = c.head_len[i] != 0 or c.off[i] != c.rec[i] + SPB_HDR_LEN
        else:
            was_len = load_32(rec + 20, c.rec_big)
            altered = c.head_len[i] != 0 or c.off[i] != c.rec[i] + EPB_HDR_LEN or c.len[i] != was_len
            options = rec + EPB_HDR_LEN + pad4(was_len)
            n_options = rec_len - 4 - EPB_HDR_LEN - pad4(was_len)
            if kind == BLOCK_PB and load_16(rec + 10, c.rec_big) != 0xFFFF:
                drops = load_16(rec + 10, c.rec_big)
    # Options grow by at most their padding; a note's as well; the drop count and the end are 16 bytes.
    length = EPB_LEN_MIN + n + n_options + (c.note_len[i] * 2 if c.noted else 0) + 64 + COPY_SLACK
    if t.cap - t.used < length:
        return length
    p = t.buffer + t.used
    if kind == BLOCK_SPB and not altered and number == 0 and not (c.noted and c.note_len[i]) and not c.ts_touched:
        if n == (t.out[0].snaplen if t.out[0].snaplen and c.wire_len[i] > t.out[0].snaplen else c.wire_len[i]):
            length = SPB_LEN_MIN + pad4(n)
            store_32(p, BLOCK_SPB, t.big)
            store_32(p + 8, c.wire_len[i], t.big)
            gather(c, i, p + SPB_HDR_LEN)
            memset(p + SPB_HDR_LEN + n, 0, 4)
            store_32(p + 4, length, t.big)
            store_32(p + length - 4, length, t.big)
            t.used += length
            return 0
    gather(c, i, p + EPB_HDR_LEN)  # before the block header, part of which it may write over
    memset(p + EPB_HDR_LEN + n, 0, 4)
    store_32(p, BLOCK_EPB, t.big)
    store_32(p + 8, number, t.big)
    if rec != NULL and kind != BLOCK_SPB and not c.ts_touched:
        units = (<uint64_t>load_32(rec + 12, c.rec_big) << 32) | load_32(rec + 16, c.rec_big)
    else:
        units = interface_units(&t.out[number], c.ts_ns[i])
    store_32(p + 12, <uint32_t>(units >> 32), t.big)
    store_32(p + 16, <uint32_t>units, t.big)
    store_32(p + 20, n, t.big)
    store_32(p + 24, c.wire_len[i], t.big)
    length = EPB_HDR_LEN + pad4(n)
    if not altered and kind == BLOCK_EPB and not c.noted and t.strip_pen == 0:
        memcpy(p + length, options, n_options)
        length += n_options
    elif n_options or drops or c.noted:
        length += put_options(t, p + length, c, i, options, n_options, altered, drops)
    length += 4
    store_32(p + 4, length, t.big)
    store_32(p + length - 4, length, t.big)
    t.used += length
    return 0


cdef bint grow_maps(Target *t) noexcept nogil:
    """Room for two more interfaces written and one more read."""
    cdef uint32_t cap
    cdef void *fresh
    if t.n_out + 2 > t.cap_out:
        cap = t.cap_out * 2 + 8
        fresh = realloc(t.out, cap * sizeof(Interface))
        if fresh == NULL:
            return False
        t.out = <Interface *>fresh
        t.cap_out = cap
    if t.n_in + 1 > t.cap_in:
        cap = t.cap_in * 2 + 8
        fresh = realloc(t.as_ethernet, cap * sizeof(uint32_t))
        if fresh == NULL:
            return False
        t.as_ethernet = <uint32_t *>fresh
        fresh = realloc(t.as_is, cap * sizeof(uint32_t))
        if fresh == NULL:
            return False
        t.as_is = <uint32_t *>fresh
        t.cap_in = cap
    return True


cdef uint32_t note_interface(Target *t, const uint8_t *block, uint32_t length, uint16_t link, uint32_t snaplen) noexcept nogil:
    """Remember an interface description that is written: its number."""
    cdef Interface *f = &t.out[t.n_out]
    cdef uint32_t at = 0, value = 0, n = 0
    cdef uint16_t code = 0
    cdef uint8_t tsresol = 6
    cdef int64_t offset_s = 0
    f.link = link
    f.snaplen = snaplen
    while option_next(block + 16, length - 20, &at, &code, &value, &n, t.big):
        if code == OPT_IF_TSRESOL and n >= 1:
            tsresol = block[16 + value]
        elif code == OPT_IF_TSOFFSET and n >= 8:
            offset_s = <int64_t>((<uint64_t>load_32(block + 16 + value + (0 if t.big else 4), t.big) << 32)
                                 | load_32(block + 16 + value + (4 if t.big else 0), t.big))
    interface_set_time(f, tsresol, offset_s)
    t.n_out += 1
    return t.n_out - 1


cdef uint32_t put_interface(Target *t, const uint8_t *block, uint32_t length, uint16_t link, uint32_t parent) noexcept nogil:
    """A description as read, of link type ``link``, its snaplen raised for what is put in front of the frames.

    ``parent``: the number of the interface it is a second form of, to be marked as such; NO_INTERFACE for none.
    """
    cdef uint32_t snaplen = load_32(block + 12, t.big), at = 0, value = 0, n = 0, used
    cdef uint16_t code = 0
    cdef uint8_t *p = t.buffer + t.used
    if snaplen and snaplen < t.snaplen_min:
        snaplen = t.snaplen_min
    memcpy(p, block, length)
    store_16(p + 8, link, t.big)
    store_32(p + 12, snaplen, t.big)
    if parent != NO_INTERFACE and t.mark_pen:
        while option_next(block + 16, length - 20, &at, &code, &value, &n, t.big):
            pass
        used = 16 + at
        used += put_mark(p + used, t.mark_pen, parent, t.big)
        memset(p + used, 0, 4)
        used += 8
        store_32(p + 4, used, t.big)
        store_32(p + used - 4, used, t.big)
        t.used += used
    else:
        t.used += length
    return note_interface(t, block, length, link, snaplen)


cdef uint32_t put_mark(uint8_t *p, uint32_t pen, uint32_t parent, bint big) noexcept nogil:
    """The option by which ``strip`` knows an interface of our making, and the one it stands for."""
    cdef uint8_t value[12]
    store_32(value, pen, big)
    memcpy(value + 4, b"VXF1", 4)
    store_32(value + 8, parent, False)
    return put_option(p, OPT_CUSTOM_BINARY, value, 12, big)


cdef uint32_t marked_parent(Target *t, const uint8_t *block, uint32_t length) noexcept nogil:
    """What an interface of our making stands for, where such are to be left out; NO_INTERFACE for all others."""
    cdef uint32_t at = 0, value = 0, n = 0
    cdef uint16_t code = 0
    while t.strip_pen and option_next(block + 16, length - 20, &at, &code, &value, &n, t.big):
        if code == OPT_CUSTOM_BINARY and n == 12 and is_stripped(t, block + 16 + value, code, n):
            return load_32(block + 16 + value + 8, False)
    return NO_INTERFACE


cdef uint32_t encode_block(Target *t, const uint8_t *block, uint32_t length, bint big) noexcept nogil:
    """A block that is no packet, carried through: 0, or the room it wants where there is too little."""
    cdef uint32_t kind, number
    cdef uint16_t link
    cdef uint8_t *p
    if t.cap - t.used < length * 2 + 64 + COPY_SLACK:
        return length * 2 + 64 + COPY_SLACK
    if load_be32(block) == BLOCK_SHB:
        t.big = big
        t.n_in = t.n_out = 0
        p = t.buffer + t.used
        memcpy(p, block, length)
        memset(p + 16, 0xFF, 8)  # the section's length changes with its packets: -1 says unknown
        t.used += length
        return 0
    kind = load_32(block, t.big)
    if kind == BLOCK_IDB:
        if not grow_maps(t):
            t.no_memory = True
            return 0
        link = load_16(block + 8, t.big)
        t.as_ethernet[t.n_in] = t.as_is[t.n_in] = NO_INTERFACE
        number = marked_parent(t, block, length)
        if number != NO_INTERFACE:
            if number < t.n_in:
                t.as_is[t.n_in] = t.as_is[number]
        else:
            if t.keep_link and not (t.to_ethernet and link == LINK_ETHERNET):
                t.as_is[t.n_in] = put_interface(t, block, length, link, NO_INTERFACE)
            if t.to_ethernet:
                t.as_ethernet[t.n_in] = put_interface(t, block, length, LINK_ETHERNET, t.as_is[t.n_in])
        t.n_in += 1
        return 0
    p = t.buffer + t.used
    memcpy(p, block, length)
    if kind == 5 and length >= 16:
        # Interface statistics: they go with the interface's first form.
        number = load_32(block + 8, t.big)
        if number < t.n_in:
            number = t.as_ethernet[number] if t.as_ethernet[number] != NO_INTERFACE else t.as_is[number]
            if number == NO_INTERFACE:
                return 0
            store_32(p + 8, number, t.big)
    t.used += length
    return 0


cdef uint32_t encode_pcapng(Target *t, Columns *c, uint32_t k, uint64_t *want) noexcept nogil:
    cdef uint32_t i, number, count = t.stop
    if k == 0 and not t.led:
        t.next_block = 0
    t.led = False
    if not t.carry:
        t.next_block = c.n_blocks
    while True:
        i = row_at(c, k) if k < count else c.n
        # Rows a node made stand behind the row they were made of, and no block stands between.
        while ((i < c.n_source or k == count) and t.next_block < c.n_blocks
               and c.block_row[t.next_block] <= i):
            if c.block_len[t.next_block]:
                want[0] = encode_block(t, c.arena + c.block_off[t.next_block], c.block_len[t.next_block], c.rec_big)
                if want[0]:
                    return k
            t.next_block += 1
        if k == count:
            return k
        if verdict_in(t.leave, c.verdict[i]):
            number = out_interface(t, c, i)
            if number == NO_INTERFACE:
                t.refused += 1
                t.refused_passed += c.verdict[i] == PASS
                c.verdict[i] = DROP_OUTPUT_LINK_TYPE
            else:
                want[0] = encode_packet(t, c, i, number)
                if want[0]:
                    return k
                t.rows += 1
                t.bytes += c.head_len[i] + c.len[i]
        k += 1
