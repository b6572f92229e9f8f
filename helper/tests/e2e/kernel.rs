//! What the kernel says, asked without the helper.

use std::fs;
use std::path::Path;

use mountwarden_client::MountId;
use mountwarden_helper::raw::{self, MountStatus, Mountinfo};
use nix::errno::Errno;
use nix::unistd::Pid;

use crate::Skip;

/// One line of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Used again after the mount's end.
    pub(crate) id: u64,
    /// The mount that it is attached to.
    pub(crate) parent: u64,
    pub(crate) root: String,
    pub(crate) point: String,
    pub(crate) options: String,
    pub(crate) shared: bool,
    pub(crate) filesystem: String,
    pub(crate) source: String,
    pub(crate) super_options: String,
}

impl Line {
    /// Whether this one covers another at its place.
    pub(crate) fn is_on(&self, below: &Self) -> bool {
        self.parent == below.id && self.point == below.point
    }
}

/// The mount table of this process.
pub(crate) fn table() -> Vec<Line> {
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .map(parse)
        .collect()
}

fn parse(line: &str) -> Line {
    let (first, second) = line.split_once(" - ").expect(line);
    let first: Vec<&str> = first.split(' ').collect();
    let second: Vec<&str> = second.split(' ').collect();
    Line {
        id: first[0].parse().unwrap(),
        parent: first[1].parse().unwrap(),
        root: unescape(first[3]),
        point: unescape(first[4]),
        options: first[5].to_owned(),
        shared: first[6..].iter().any(|field| field.starts_with("shared:")),
        filesystem: second[0].to_owned(),
        source: unescape(second[1]),
        super_options: second[2].to_owned(),
    }
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let digits = &rest[at + 1..at + 4];
        out.push(char::from(u8::from_str_radix(digits, 8).unwrap()));
        rest = &rest[at + 4..];
    }
    out + rest
}

/// The mounts at a path, the topmost last.
pub(crate) fn at(path: &Path) -> Vec<Line> {
    table()
        .into_iter()
        .filter(|line| Path::new(&line.point) == path)
        .collect()
}

/// The one mount at a path.
pub(crate) fn only(path: &Path) -> Line {
    let mut lines = at(path);
    assert_eq!(lines.len(), 1, "one mount at {}: {lines:?}", path.display());
    lines.remove(0)
}

/// Runs `work`, after which the mount table must be what it was.
pub(crate) fn unchanged<T>(work: impl FnOnce() -> T) -> T {
    let before = table();
    let result = work();
    assert_eq!(table(), before, "the mount table changed");
    result
}

/// What `statmount(2)` says of a mount, or `mountinfo` where there is no such call.
pub(crate) fn statmount(id: MountId) -> MountStatus {
    status_of_mount(id.into()).unwrap()
}

/// As [`statmount`], of a mount that may have ended.
pub(crate) fn status_of_mount(id: u64) -> Result<MountStatus, Errno> {
    match raw::status_of_mount(id) {
        Err(Errno::ENOSYS) => mountinfo().status_of_mount(id),
        other => other,
    }
}

/// The table as the helper reads it where there are no calls to ask.
pub(crate) fn mountinfo() -> Mountinfo {
    Mountinfo::new(fs::File::open("/proc/self/mountinfo").unwrap().into())
}

/// Skips what takes a newer kernel than this one.
pub(crate) fn needs(major: u32, minor: u32, what: &str) -> Result<(), Skip> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse().unwrap_or(0));
    let running = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if running >= (major, minor) {
        Ok(())
    } else {
        let release = release.trim();
        Err(Skip(format!(
            "{what} is of Linux {major}.{minor}, and this is {release}"
        )))
    }
}

/// Whether there is `statmount(2)`, and the ids that come with it.
pub(crate) fn has_unique_ids() -> bool {
    raw::status_of_mount(0) != Err(Errno::ENOSYS)
}

/// Skips what takes unique ids.
pub(crate) fn needs_unique_ids() -> Result<(), Skip> {
    if has_unique_ids() {
        return Ok(());
    }
    Err(Skip(
        "this kernel lacks statmount, so that ids are used again".to_owned(),
    ))
}

/// Whether of two unmounts of a mount at the same moment one fails. Before Linux 6.17 the
/// second finds nothing to do and succeeds too (`do_umount` in `fs/namespace.c`).
pub(crate) fn ends_a_mount_once() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let mut next = || numbers.next().unwrap().unwrap();
    (next(), next()) >= (6, 17)
}

/// `MOUNT_ATTR_RDONLY`, `NOSUID`, `NODEV`, `NOEXEC`, `NOSYMFOLLOW`
pub(crate) const RDONLY: u64 = 1;
pub(crate) const NOSUID: u64 = 2;
pub(crate) const NODEV: u64 = 4;
pub(crate) const NOEXEC: u64 = 8;
pub(crate) const NOSYMFOLLOW: u64 = 0x20_0000;
/// The bits above.
pub(crate) const RESTRICTIONS: u64 = RDONLY | NOSUID | NODEV | NOEXEC | NOSYMFOLLOW;

/// A field of `/proc/PID/status`.
pub(crate) fn status_field(pid: Pid, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == name).then(|| value.trim().to_owned())
    })
}

/// Whether a process runs; a zombie does not.
pub(crate) fn is_alive(pid: Pid) -> bool {
    status_field(pid, "State").is_some_and(|state| !state.starts_with('Z'))
}

/// The processes below `root` in the process tree, itself included.
pub(crate) fn descendants(root: Pid) -> Vec<Pid> {
    let mut found = vec![root];
    let mut all: Vec<(Pid, Pid)> = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let name = entry.unwrap().file_name();
        let Ok(number) = name.to_string_lossy().parse::<i32>() else {
            continue;
        };
        let pid = Pid::from_raw(number);
        let parent = status_field(pid, "PPid").and_then(|text| text.parse().ok());
        if let Some(parent) = parent {
            all.push((pid, Pid::from_raw(parent)));
        }
    }
    let mut index = 0;
    while index < found.len() {
        let parent = found[index];
        found.extend(
            all.iter()
                .filter(|(_, p)| *p == parent)
                .map(|(pid, _)| *pid),
        );
        index += 1;
    }
    found
}

/// The helper's processes of one name, below its warden.
pub(crate) fn named(root: Pid, name: &str) -> Vec<Pid> {
    descendants(root)
        .into_iter()
        .filter(|&pid| status_field(pid, "Name").as_deref() == Some(name))
        .collect()
}

/// The children of a process.
pub(crate) fn children(pid: Pid) -> Vec<Pid> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap()
        .split_whitespace()
        .map(|number| Pid::from_raw(number.parse().unwrap()))
        .collect()
}
