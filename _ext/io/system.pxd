"""What the rooms of live traffic call of the C library: vectors, messages and options of sockets. One declaration of each."""
from libc.stdint cimport uint8_t
from posix.time cimport timespec

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <sys/socket.h>
    #include <sys/uio.h>
    #ifndef SOL_PACKET
    #define SOL_PACKET 263
    #endif
    """
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        void *msg_name
        unsigned msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        unsigned msg_len
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(msghdr *m)
    cmsghdr *CMSG_NXTHDR(msghdr *m, cmsghdr *c)
    uint8_t *CMSG_DATA(cmsghdr *c)
    ssize_t readv(int fd, const iovec *iov, int count)
    ssize_t writev(int fd, const iovec *iov, int count)
    int recvmmsg(int fd, mmsghdr *messages, unsigned count, int flags, timespec *timeout)
    int sendmmsg(int fd, mmsghdr *messages, unsigned count, int flags)
    int setsockopt(int fd, int level, int name, const void *value, unsigned length)
    int getsockopt(int fd, int level, int name, void *value, unsigned *length)
    enum:
        AF_INET
        AF_INET6
        MSG_DONTWAIT
        MSG_TRUNC
        SCM_TIMESTAMPNS
        SOL_PACKET
        SOL_SOCKET
        SO_RCVBUF
        SO_RCVBUFFORCE
        SO_RXQ_OVFL
        SO_TIMESTAMPNS
