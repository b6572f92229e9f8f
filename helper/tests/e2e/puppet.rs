//! A process of the helper in an attacker's hands.
//!
//! A puppet is a real role of the unmodified helper. Through `ptrace(2)` a case makes it
//! execute an instruction of its own text, with registers and memory contents of the
//! attacker's choice: as much as somebody who owns the process could do. Its descriptors,
//! capabilities, Landlock domain and filters are what they were, and the kernel decides
//! about every call as it would for the role itself.

use std::fs;
use std::io::{IoSlice, IoSliceMut};

use nix::errno::Errno;
use nix::libc::{self, c_long, user_regs_struct};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::daemon::wait_for;

/// What became of a system call, and of the process that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Returned(Result<u64, Errno>),
    Killed(Signal),
}

/// A stopped process whose registers are the case's.
pub(crate) struct Puppet {
    pid: Pid,
    /// Where it rested.
    resting: user_regs_struct,
    /// The next free byte of the memory that [`Puppet::place`] fills: the far end of
    /// its stack, which nothing has used yet.
    free: u64,
    /// It runs by itself again, or not at all.
    gone: bool,
}

/// Children are traced too, and nothing survives the case.
const OPTIONS: Options = Options::PTRACE_O_TRACEFORK
    .union(Options::PTRACE_O_TRACEVFORK)
    .union(Options::PTRACE_O_TRACECLONE)
    .union(Options::PTRACE_O_EXITKILL);
/// `PTRACE_EVENT_STOP` in `ptrace(2)`.
const EVENT_STOP: i32 = 128;
const EVENT_VFORK: i32 = libc::PTRACE_EVENT_VFORK;
/// The `clone(2)` flags of libc's `fork`: `CLONE_CHILD_SETTID`,
/// `CLONE_CHILD_CLEARTID` and `SIGCHLD`.
pub(crate) const FORK: u64 = 0x0120_0011;
const SYSCALL: [u8; 2] = [0x0f, 0x05];
const INT_80: [u8; 2] = [0xcd, 0x80];

impl Puppet {
    /// Takes a process over where it waits in a system call.
    pub(crate) fn seize(pid: Pid) -> Self {
        ptrace::seize(pid, OPTIONS).unwrap();
        let resting = wait_for("it rests in a system call", || {
            ptrace::interrupt(pid).unwrap();
            loop {
                match wait(pid) {
                    WaitStatus::PtraceEvent(_, _, EVENT_STOP) => break,
                    WaitStatus::Stopped(_, signal) => ptrace::cont(pid, signal).unwrap(),
                    other => panic!("{other:?}"),
                }
            }
            let registers = ptrace::getregs(pid).unwrap();
            // The kernel would restart the call: ERESTARTSYS to ERESTART_RESTARTBLOCK.
            let interrupted = (-516..=-512).contains(&registers.rax.cast_signed());
            if interrupted && read(pid, registers.rip - 2, 2).unwrap() == SYSCALL {
                return Some(registers);
            }
            ptrace::cont(pid, None).unwrap();
            None
        });
        let (free, _, _) = mappings(pid)
            .into_iter()
            .find(|(_, _, line)| line.ends_with("[stack]"))
            .expect("a stack");
        Self {
            pid,
            resting,
            free,
            gone: false,
        }
    }

    /// Its stack pointer: an address that some other process has too.
    pub(crate) fn rest(&self) -> u64 {
        self.resting.rsp
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Makes a system call.
    pub(crate) fn syscall(&mut self, number: c_long, arguments: &[u64]) -> Outcome {
        self.run(self.resting.rip - 2, self.call(number, arguments))
    }

    /// Makes a system call by the entry of 32-bit programs; `None` where the text of
    /// the process has no `int 0x80`.
    pub(crate) fn syscall_of_32_bits(&mut self, number: u64) -> Option<Outcome> {
        let at = self.find_text(&INT_80)?;
        let mut registers = self.resting;
        registers.rax = number;
        Some(self.run(at, registers))
    }

    /// Executes what stands at an address.
    pub(crate) fn execute(&mut self, at: u64) -> Outcome {
        self.run(at, self.resting)
    }

    fn call(&self, number: c_long, arguments: &[u64]) -> user_regs_struct {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        let mut registers = self.resting;
        registers.rax = number.cast_unsigned();
        [
            registers.rdi,
            registers.rsi,
            registers.rdx,
            registers.r10,
            registers.r8,
            registers.r9,
        ] = all;
        registers
    }

    fn run(&mut self, at: u64, registers: user_regs_struct) -> Outcome {
        // A fork that nobody wanted to keep ends here.
        self.step(at, registers).0
    }

    /// Forks, as a role that has children does: the child has the same memory,
    /// descriptors and confinement, and dies in this process's place.
    pub(crate) fn fork(&mut self) -> Self {
        let clone = self.call(libc::SYS_clone, &[FORK]);
        match self.step(self.resting.rip - 2, clone) {
            (Outcome::Returned(Ok(_)), Some(child)) => child,
            (outcome, _) => panic!("{outcome:?}"),
        }
    }

    /// Executes one instruction, which may make a child.
    fn step(&mut self, at: u64, mut registers: user_regs_struct) -> (Outcome, Option<Self>) {
        registers.rip = at;
        // It is in no system call that the kernel would have to restart.
        registers.orig_rax = u64::MAX;
        ptrace::setregs(self.pid, registers).unwrap();
        let (mut deliver, mut child) = (None, None);
        loop {
            ptrace::step(self.pid, deliver).unwrap();
            deliver = None;
            match wait(self.pid) {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => break,
                WaitStatus::Stopped(_, signal) => deliver = Some(signal),
                WaitStatus::Signaled(_, signal, _) => {
                    self.gone = true;
                    return (Outcome::Killed(signal), child);
                }
                // Its parent waits for it.
                WaitStatus::PtraceEvent(_, _, EVENT_VFORK) => drop(self.born()),
                WaitStatus::PtraceEvent(..) => child = Some(self.born()),
                other => panic!("{other:?}"),
            }
        }
        let returned = ptrace::getregs(self.pid).unwrap().rax.cast_signed();
        let outcome = match i32::try_from(returned) {
            Ok(error @ -4095..0) => Err(Errno::from_raw(-error)),
            _ => Ok(returned.cast_unsigned()),
        };
        (Outcome::Returned(outcome), child)
    }

    /// The child that this process has just made.
    fn born(&self) -> Self {
        let child = i32::try_from(ptrace::getevent(self.pid).unwrap()).unwrap();
        let pid = Pid::from_raw(child);
        let stop = wait(pid);
        assert!(
            matches!(stop, WaitStatus::PtraceEvent(_, _, EVENT_STOP)),
            "{stop:?}"
        );
        Self { pid, ..*self }
    }

    /// Puts bytes into memory that the process may write.
    pub(crate) fn place(&mut self, bytes: &[u8]) -> u64 {
        let at = self.free;
        self.write(at, bytes);
        let length = u64::try_from(bytes.len()).unwrap();
        self.free = (at + length).next_multiple_of(16);
        assert!(self.free < self.resting.rsp - 4096, "no more room");
        at
    }

    /// Puts a string there, with its closing NUL.
    pub(crate) fn text(&mut self, text: impl AsRef<[u8]>) -> u64 {
        self.place(&[text.as_ref(), &[0]].concat())
    }

    /// Puts numbers there.
    pub(crate) fn words(&mut self, words: &[u64]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.place(&bytes)
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        let remote = [remote(at, bytes.len())];
        assert_eq!(
            process_vm_writev(self.pid, &[IoSlice::new(bytes)], &remote),
            Ok(bytes.len())
        );
    }

    pub(crate) fn read(&self, at: u64, length: usize) -> Vec<u8> {
        read(self.pid, at, length).unwrap()
    }

    pub(crate) fn word(&self, at: u64) -> u64 {
        u64::from_ne_bytes(self.read(at, 8).try_into().unwrap())
    }

    /// Lets the process run on from an address, by itself.
    pub(crate) fn jump(self, to: u64, arguments: [u64; 3]) {
        let mut registers = self.resting;
        registers.rip = to;
        [registers.rdi, registers.rsi, registers.rdx] = arguments;
        // As after a call: a return address lies where the stack is aligned.
        registers.rsp = (registers.rsp - 4096) / 16 * 16 - 8;
        self.let_go(registers);
    }

    /// Lets the process run on by itself, into a system call.
    pub(crate) fn leap(self, number: c_long, arguments: &[u64]) {
        let mut registers = self.call(number, arguments);
        registers.rip = self.resting.rip - 2;
        self.let_go(registers);
    }

    fn let_go(mut self, mut registers: user_regs_struct) {
        registers.orig_rax = u64::MAX;
        ptrace::setregs(self.pid, registers).unwrap();
        ptrace::detach(self.pid, None).unwrap();
        self.gone = true;
    }

    /// Lets the process go on where it rested, as if nothing had been.
    pub(crate) fn release(mut self) {
        ptrace::setregs(self.pid, self.resting).unwrap();
        ptrace::detach(self.pid, None).unwrap();
        self.gone = true;
    }

    /// Where bytes stand in the executable mappings.
    fn find_text(&self, wanted: &[u8]) -> Option<u64> {
        mappings(self.pid)
            .iter()
            .filter(|(_, _, line)| line.contains(" r-xp "))
            .find_map(|&(from, to, _)| {
                let bytes = read(self.pid, from, usize::try_from(to - from).unwrap()).ok()?;
                let at = bytes.windows(wanted.len()).position(|two| two == wanted)?;
                Some(from + u64::try_from(at).unwrap())
            })
    }

    /// Where a program is mapped.
    pub(crate) fn base(&self, program: &std::path::Path) -> u64 {
        let name = program.to_str().unwrap();
        mappings(self.pid)
            .into_iter()
            .find(|(_, _, line)| line.ends_with(name))
            .expect("its program")
            .0
    }
}

impl Drop for Puppet {
    /// A puppet that was not released is of no use to anybody.
    fn drop(&mut self) {
        if !self.gone {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, Some(WaitPidFlag::__WALL));
        }
    }
}

fn wait(pid: Pid) -> WaitStatus {
    waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap()
}

fn remote(at: u64, len: usize) -> RemoteIoVec {
    let base = usize::try_from(at).unwrap();
    RemoteIoVec { base, len }
}

fn read(pid: Pid, at: u64, length: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; length];
    let done = process_vm_readv(
        pid,
        &mut [IoSliceMut::new(&mut bytes)],
        &[remote(at, length)],
    )?;
    assert_eq!(done, length);
    Ok(bytes)
}

/// The lines of `/proc/PID/maps` with their bounds.
fn mappings(pid: Pid) -> Vec<(u64, u64, String)> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
    maps.lines()
        .map(|line| {
            let (range, _) = line.split_once(' ').expect(line);
            let (from, to) = range.split_once('-').expect(line);
            (number(from), number(to), line.to_owned())
        })
        .collect()
}
