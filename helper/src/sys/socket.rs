//! Sockets: messages with descriptors, and the kernel's word about a peer.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{self, ControlMessage, MsgFlags, SockFlag, accept4, sendmsg};
use nix::unistd::Pid;

use super::result;

/// The most descriptors that a message carries, but for an order.
const MAX_DESCRIPTORS: usize = 4;
/// The most descriptors that an order brings: the directory above a target, the target,
/// and the layers of an overlay.
pub(crate) const MAX_OF_ORDER: usize = 20;

/// A received message.
pub(crate) struct Message {
    /// How many bytes of the buffer it filled; 0 at the end of a stream.
    pub(crate) length: usize,
    /// The descriptors that came with it.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Who sent it, on a socket with `SO_PASSCRED`.
    pub(crate) sender: Option<Pid>,
    /// Bytes or descriptors did not fit and were dropped by the kernel.
    pub(crate) truncated: bool,
}

/// Receives one message (`recvmsg(2)`). Descriptors are closed on exec.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: MsgFlags,
) -> Result<Message, Errno> {
    receive_with(socket, buffer, flags, room_for(MAX_DESCRIPTORS))
}

/// As [`receive`], for a message with as many descriptors as an order.
pub(crate) fn receive_order(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Message, Errno> {
    receive_with(socket, buffer, MsgFlags::empty(), room_for(MAX_OF_ORDER))
}

/// nix's `recvmsg` gives no control messages when some did not fit, and the
/// descriptors that did would stay open without an owner.
fn receive_with(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: MsgFlags,
    room: usize,
) -> Result<Message, Errno> {
    // Words, so that the headers in it are aligned.
    let mut control = [0_u64; CONTROL.div_ceil(size_of::<u64>())];
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: a `msghdr` is numbers and pointers, for which zero is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = room.min(CONTROL);
    let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
    // SAFETY: the header points to the buffer and to `control`, with their true
    // sizes or less, and both live through the call.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags.bits()) };
    let length = usize::try_from(Errno::result(received)?).map_err(|_| Errno::EPROTO)?;
    let dropped = MsgFlags::MSG_CTRUNC | MsgFlags::MSG_TRUNC;
    // SAFETY: `recvmsg` has just filled the header in.
    let (descriptors, sender) = unsafe { attached(&header) };
    Ok(Message {
        length,
        descriptors,
        sender,
        truncated: header.msg_flags & dropped.bits() != 0,
    })
}

/// Room for so many descriptors of one message, and for not one more; or for its sender,
/// which the kernel writes first.
const fn room_for(descriptors: usize) -> usize {
    size_of::<libc::cmsghdr>().saturating_add(descriptors.saturating_mul(size_of::<RawFd>()))
}

/// The most room that a message is given.
const CONTROL: usize = room_for(MAX_OF_ORDER);
const _: () =
    assert!(room_for(MAX_DESCRIPTORS) >= size_of::<libc::cmsghdr>() + size_of::<libc::ucred>());

/// Takes the descriptors that came with a message, and its sender (`cmsg(3)`).
///
/// # Safety
/// `recvmsg` has filled `header` in, and nobody took its descriptors before.
unsafe fn attached(header: &libc::msghdr) -> (Vec<OwnedFd>, Option<Pid>) {
    let (mut descriptors, mut sender) = (Vec::new(), None);
    // SAFETY: the kernel wrote the control messages and their length.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: null, or a header that lies whole within the control messages.
    while let Some(control) = unsafe { next.as_ref() } {
        if (control.cmsg_level, control.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            let length = control.cmsg_len.saturating_sub(size_of::<libc::cmsghdr>());
            // SAFETY: the header says that so many bytes follow it.
            let data = unsafe { std::slice::from_raw_parts(libc::CMSG_DATA(next), length) };
            let (numbers, _) = data.as_chunks();
            // SAFETY: the kernel has just put these descriptors into this process
            // for this message; nothing else knows their numbers.
            descriptors.extend(
                numbers
                    .iter()
                    .map(|number| unsafe { OwnedFd::from_raw_fd(RawFd::from_ne_bytes(*number)) }),
            );
        }
        if (control.cmsg_level, control.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) {
            // SAFETY: the kernel wrote a whole `ucred` after such a header; there is room
            // for one, and what does not fit has no header.
            let from = unsafe { libc::CMSG_DATA(next).cast::<libc::ucred>().read_unaligned() };
            sender = Some(Pid::from_raw(from.pid));
        }
        // SAFETY: as for the first.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
    }
    (descriptors, sender)
}

/// Sends one message with descriptors (`sendmsg(2)`), without SIGPIPE.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    flags: MsgFlags,
) -> Result<usize, Errno> {
    let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control: &[ControlMessage<'_>] = if numbers.is_empty() { &[] } else { &rights };
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        control,
        flags | MsgFlags::MSG_NOSIGNAL,
        None,
    )
}

/// Sends bytes with which no descriptor can come (`send(2)`), without SIGPIPE.
pub(crate) fn send_bytes(socket: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    socket::send(socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)
}

/// Accepts a connection (`accept4(2)`), without blocking when none waits.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let socket = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: the kernel has just made this descriptor for this call.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// Takes a descriptor that the process was started with, by its number.
///
/// The caller has checked that the number is open and that it is the only owner.
pub(crate) fn adopt(number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: borrowed for one call, which tells whether the number is open.
    let open = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(open, FcntlArg::F_GETFD)?;
    // SAFETY: the number is open, and stands for a descriptor that was passed to
    // the process at its start, or placed by `dup_to`; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes `number` name the same file as `descriptor` (`dup3(2)`), closed on
/// exec, and gives the owner of that number. Whatever `number` named is closed.
pub(crate) fn dup_to(descriptor: BorrowedFd<'_>, number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: the callers use numbers that the layout of a role reserves, so
    // that no other owner of `number` exists.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_dup3,
            libc::c_long::from(descriptor.as_raw_fd()),
            libc::c_long::from(number),
            libc::c_long::from(libc::O_CLOEXEC),
        )
    };
    result(returned)?;
    // SAFETY: `dup3` has just made this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Moves a new descriptor to a fixed number, whatever stands there now.
pub(crate) fn settle(descriptor: OwnedFd, number: RawFd) -> Result<OwnedFd, Errno> {
    if descriptor.as_raw_fd() == number {
        return Ok(descriptor);
    }
    dup_to(descriptor.as_fd(), number)
}

/// Duplicates descriptors to fixed numbers, whatever stands there now: a child
/// does this first, and never drops what its parent owned.
pub(crate) fn place<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    numbers: [RawFd; N],
) -> Result<[OwnedFd; N], Errno> {
    // Above every fixed number, so that no step closes what a later one needs.
    const ABOVE: RawFd = 32;
    let mut aside = Vec::with_capacity(N);
    for descriptor in descriptors {
        let number = fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(ABOVE))?;
        // SAFETY: the kernel has just made this descriptor for this call.
        aside.push(unsafe { OwnedFd::from_raw_fd(number) });
    }
    let placed: Result<Vec<OwnedFd>, Errno> = aside
        .iter()
        .zip(numbers)
        .map(|(fd, number)| dup_to(fd.as_fd(), number))
        .collect();
    placed?.try_into().map_err(|_| Errno::EBADF)
}

/// The supplementary groups that the peer had when it connected
/// (`SO_PEERGROUPS` in `unix(7)`).
pub(crate) fn peer_groups(socket: &impl AsFd) -> Result<Vec<u32>, Errno> {
    let mut groups: Vec<u32> = vec![0; 64];
    loop {
        let room = groups.len().saturating_mul(size_of::<u32>());
        let mut length = libc::socklen_t::try_from(room).map_err(|_| Errno::ERANGE)?;
        // SAFETY: `length` is the size in bytes of the buffer that `groups` owns,
        // and the kernel writes no more than that.
        let returned = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let needed = usize::try_from(length)
            .unwrap_or(usize::MAX)
            .div_ceil(size_of::<u32>());
        match Errno::result(returned) {
            Ok(_) => {
                groups.truncate(needed);
                return Ok(groups);
            }
            // The kernel says how much it needs; at most NGROUPS_MAX, 65536.
            Err(Errno::ERANGE) if needed > groups.len() && needed <= 65_536 => {
                groups.resize(needed, 0);
            }
            Err(errno) => return Err(errno),
        }
    }
}
