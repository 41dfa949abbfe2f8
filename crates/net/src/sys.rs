//! The system calls that neither `socket2` nor `mio` offers: batch receive, source address choice, interface list.
//! The only file of the project with `unsafe`; nothing here knows SIP or keeps state beyond its buffers.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use socket2::{SockAddr, Socket};

/// Datagrams taken from the system with one call.
pub(crate) const BATCH_MAX: usize = 32;
/// Room for one datagram; the largest UDP payload is 65507 bytes.
pub(crate) const DATAGRAM_MAX: usize = 65_536;
/// Distance between slots: not a power of two, so that the heads of the slots do not fight for one cache set.
const SLOT_STRIDE: usize = DATAGRAM_MAX + 640;
/// Room for one `IP_PKTINFO` or `IPV6_PKTINFO` control message (at most 40 bytes) and some more.
const CONTROL_BYTES: usize = 96;

/// A control buffer with the alignment that control messages need.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// One datagram inside a [`RecvBatch`].
pub(crate) struct Datagram<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) src: SocketAddr,
    /// The address it was sent to, when the socket asks for it.
    pub(crate) dst_ip: Option<IpAddr>,
    pub(crate) truncated: bool,
}

/// The buffers for receiving a batch; one per worker. Memory is touched only as far as datagrams reach.
pub(crate) struct RecvBatch {
    arena: Box<[u8]>,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
    /// Kept so that the pointers inside `headers` stay valid; rebuilt never.
    _iovecs: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    filled: usize,
}

impl RecvBatch {
    pub(crate) fn new() -> Self {
        let mut arena = vec![0_u8; SLOT_STRIDE * BATCH_MAX].into_boxed_slice();
        // SAFETY: sockaddr_storage is plain old data for which all zero bytes is a valid value.
        let zero_name: libc::sockaddr_storage = unsafe { mem::zeroed() };
        let mut names = vec![zero_name; BATCH_MAX].into_boxed_slice();
        let mut controls = vec![Control([0; CONTROL_BYTES]); BATCH_MAX].into_boxed_slice();
        let mut iovecs: Box<[libc::iovec]> = arena
            .chunks_exact_mut(SLOT_STRIDE)
            .map(|slot| libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: DATAGRAM_MAX })
            .collect();
        let headers = iovecs
            .iter_mut()
            .zip(names.iter_mut())
            .zip(controls.iter_mut())
            .map(|((iovec, name), control)| {
                // SAFETY: mmsghdr is plain old data for which all zero bytes is a valid value.
                let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
                header.msg_hdr.msg_name = ptr::from_mut(name).cast();
                header.msg_hdr.msg_iov = iovec;
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_control = ptr::from_mut(control).cast();
                header
            })
            .collect();
        RecvBatch { arena, names, controls, _iovecs: iovecs, headers, filled: 0 }
    }

    /// Receives what is there, up to [`BATCH_MAX`]; `WouldBlock` when nothing is.
    pub(crate) fn receive(&mut self, socket: &Socket, with_destination: bool) -> io::Result<usize> {
        self.filled = 0;
        for header in &mut self.headers {
            header.msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_hdr.msg_controllen = if with_destination { CONTROL_BYTES } else { 0 };
            header.msg_hdr.msg_flags = 0;
            header.msg_len = 0;
        }
        // SAFETY: every header points to a name, an iovec and a control buffer that live as long as `self` in boxed
        // slices which are never resized; `&mut self` excludes other users during the call; the length is the number
        // of headers.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        self.filled = count.min(BATCH_MAX);
        Ok(self.filled)
    }

    /// The datagram at `index` of the last [`RecvBatch::receive`]; `None` past the end or with an unusable source.
    pub(crate) fn datagram(&self, index: usize) -> Option<Datagram<'_>> {
        if index >= self.filled {
            return None;
        }
        let header = self.headers.get(index)?;
        let start = index * SLOT_STRIDE;
        let length = (header.msg_len as usize).min(DATAGRAM_MAX);
        Some(Datagram {
            bytes: self.arena.get(start..start + length)?,
            src: address_from_storage(self.names.get(index)?)?,
            dst_ip: self.destination(index),
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        })
    }

    /// Reads the address out of the packet-info control message.
    fn destination(&self, index: usize) -> Option<IpAddr> {
        let header = self.headers.get(index)?;
        let written = header.msg_hdr.msg_controllen;
        let control = self.controls.get(index)?.0.get(..written)?;
        let head_bytes = mem::size_of::<libc::cmsghdr>();
        let head = control.get(..head_bytes)?;
        // SAFETY: `head` is exactly as long as a cmsghdr, which is plain old data; the read is declared unaligned.
        let head: libc::cmsghdr = unsafe { ptr::read_unaligned(head.as_ptr().cast()) };
        let data = control.get(head_bytes..head.cmsg_len)?;
        match (head.cmsg_level, head.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let data = data.get(..mem::size_of::<libc::in_pktinfo>())?;
                // SAFETY: `data` is exactly as long as an in_pktinfo, plain old data; the read is unaligned.
                let info: libc::in_pktinfo = unsafe { ptr::read_unaligned(data.as_ptr().cast()) };
                Some(IpAddr::V4(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes())))
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let data = data.get(..mem::size_of::<libc::in6_pktinfo>())?;
                // SAFETY: `data` is exactly as long as an in6_pktinfo, plain old data; the read is unaligned.
                let info: libc::in6_pktinfo = unsafe { ptr::read_unaligned(data.as_ptr().cast()) };
                Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)))
            }
            _ => None,
        }
    }
}

fn address_from_storage(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: sockaddr_storage is larger than and aligned for every socket address; the family says that the
            // system wrote a sockaddr_in here.
            let address = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            Some(SocketAddr::V4(SocketAddrV4::new(
                Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes()),
                u16::from_be(address.sin_port),
            )))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for sockaddr_in6.
            let address = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            Some(SocketAddr::V6(SocketAddrV6::new(
                Ipv6Addr::from(address.sin6_addr.s6_addr),
                u16::from_be(address.sin6_port),
                0,
                address.sin6_scope_id,
            )))
        }
        _ => None,
    }
}

/// Sends a datagram from a wildcard socket with a chosen local address.
pub(crate) fn send_from(socket: &Socket, from: IpAddr, dst: SocketAddr, bytes: &[u8]) -> io::Result<usize> {
    match from {
        IpAddr::V4(ip) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            send_with_control(socket, dst, bytes, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
        }
        IpAddr::V6(ip) => {
            let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 };
            send_with_control(socket, dst, bytes, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
        }
    }
}

/// `T` is one of the two packet-info structures, both plain old data without drop.
fn send_with_control<T: Copy>(
    socket: &Socket,
    dst: SocketAddr,
    bytes: &[u8],
    level: libc::c_int,
    kind: libc::c_int,
    info: T,
) -> io::Result<usize> {
    let name = SockAddr::from(dst);
    let mut control = Control([0; CONTROL_BYTES]);
    let mut iovec = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: msghdr is plain old data for which all zero bytes is a valid value.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = name.as_ptr().cast_mut().cast();
    header.msg_namelen = name.len();
    header.msg_iov = &raw mut iovec;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    let info_bytes = mem::size_of::<T>() as libc::c_uint;
    // SAFETY: CMSG_SPACE only computes; both structures (12 and 20 bytes) need less than CONTROL_BYTES.
    header.msg_controllen = unsafe { libc::CMSG_SPACE(info_bytes) } as usize;
    // SAFETY: msg_control points to CONTROL_BYTES zeroed, suitably aligned bytes and msg_controllen is at least one
    // header, so CMSG_FIRSTHDR is not null and header plus data fit (see above).
    unsafe {
        let first = libc::CMSG_FIRSTHDR(&raw const header);
        (*first).cmsg_level = level;
        (*first).cmsg_type = kind;
        (*first).cmsg_len = libc::CMSG_LEN(info_bytes) as usize;
        ptr::write_unaligned(libc::CMSG_DATA(first).cast::<T>(), info);
    }
    // SAFETY: all pointers in `header` refer to locals or arguments that outlive the call; the system only reads them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

fn set_int(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            ptr::from_ref(&value).cast(),
            mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks the system to report the destination address of each datagram.
pub(crate) fn set_report_destination(socket: &Socket, v6: bool) -> io::Result<()> {
    if v6 {
        set_int(socket.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
    } else {
        set_int(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
    }
}

/// Leaves the don't-fragment bit off: a SIP message above the path MTU must be fragmented, not lost.
pub(crate) fn allow_fragments(socket: &Socket, v6: bool) -> io::Result<()> {
    if v6 {
        set_int(socket.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)
    } else {
        set_int(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
    }
}

/// Leaves the choice of the local port to `connect`, so that a bound address does not use up ports early.
pub(crate) fn choose_port_late(socket: &Socket) -> io::Result<()> {
    set_int(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Enlarges both buffers, past the system-wide limit when we may (`CAP_NET_ADMIN`), else up to it. What the system gives by
/// itself is never taken away (OpenSIPS probes upwards from it, too).
pub(crate) fn set_buffers(socket: &Socket, bytes: usize) -> io::Result<()> {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    if socket.recv_buffer_size()? < bytes
        && set_int(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, value).is_err()
    {
        socket.set_recv_buffer_size(bytes)?;
    }
    if socket.send_buffer_size()? < bytes
        && set_int(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, value).is_err()
    {
        socket.set_send_buffer_size(bytes)?;
    }
    Ok(())
}

/// The traffic class of an IPv6 socket.
pub(crate) fn set_traffic_class(socket: &Socket, class: u8) -> io::Result<()> {
    set_int(socket.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_TCLASS, libc::c_int::from(class))
}

/// Name and address of every interface that is up, as (name, address, is loopback).
pub(crate) fn interfaces() -> io::Result<Vec<(String, IpAddr, bool)>> {
    let mut list = MaybeUninit::<*mut libc::ifaddrs>::uninit();
    // SAFETY: the pointer is valid for writing one pointer.
    if unsafe { libc::getifaddrs(list.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: getifaddrs succeeded, so it has written the head of the list.
    let head = unsafe { list.assume_init() };
    let mut found = Vec::new();
    let mut next = head;
    while !next.is_null() {
        // SAFETY: `next` is a non-null entry of the list, which is freed only after the loop.
        let entry = unsafe { &*next };
        next = entry.ifa_next;
        let is_up = entry.ifa_flags & libc::IFF_UP as libc::c_uint != 0;
        if !is_up || entry.ifa_addr.is_null() || entry.ifa_name.is_null() {
            continue;
        }
        // SAFETY: ifa_addr is non-null and every socket address starts with its family.
        let family = libc::c_int::from(unsafe { (*entry.ifa_addr).sa_family });
        let ip = match family {
            libc::AF_INET => {
                // SAFETY: the family says that this is a sockaddr_in; the read is declared unaligned.
                let address: libc::sockaddr_in = unsafe { ptr::read_unaligned(entry.ifa_addr.cast()) };
                IpAddr::V4(Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes()))
            }
            libc::AF_INET6 => {
                // SAFETY: the family says that this is a sockaddr_in6; the read is declared unaligned.
                let address: libc::sockaddr_in6 = unsafe { ptr::read_unaligned(entry.ifa_addr.cast()) };
                IpAddr::V6(Ipv6Addr::from(address.sin6_addr.s6_addr))
            }
            _ => continue,
        };
        // SAFETY: ifa_name is a non-null string terminated by a zero byte.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) }.to_string_lossy().into_owned();
        found.push((name, ip, entry.ifa_flags & libc::IFF_LOOPBACK as libc::c_uint != 0));
    }
    // SAFETY: `head` came from getifaddrs and is freed once; no reference into the list is left.
    unsafe { libc::freeifaddrs(head) };
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use socket2::{Domain, Socket, Type};

    #[test]
    fn buffers_of_udp_sockets_grow_and_never_shrink() {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        let before = (socket.recv_buffer_size().unwrap(), socket.send_buffer_size().unwrap());
        super::set_buffers(&socket, 16).unwrap();
        assert_eq!((socket.recv_buffer_size().unwrap(), socket.send_buffer_size().unwrap()), before);
        // The system counts what it needs itself, too, and holds those who may not pass it to its limit.
        let limit = |name: &str| -> usize {
            let text = std::fs::read_to_string(format!("/proc/sys/net/core/{name}")).unwrap();
            text.trim().parse().unwrap()
        };
        super::set_buffers(&socket, crate::UDP_BUFFER_BYTES).unwrap();
        let least = |name| 2 * crate::UDP_BUFFER_BYTES.min(limit(name));
        assert!(socket.recv_buffer_size().unwrap() >= least("rmem_max"));
        assert!(socket.send_buffer_size().unwrap() >= least("wmem_max"));
    }
}
