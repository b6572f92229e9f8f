//! A stand-in for `mount.quobyte`: a program with its command line, which serves a directory and
//! is as bad a program as its configuration says.
//!
//! The configuration is JSON. What is not in it is not done:
//! - `dump`: a file to write down what the program was started with.
//! - `say`, `flood`: a text, and a number of bytes, for standard error.
//! - `wait`: a file to wait for before anything is mounted.
//! - `hang`: `before` or `after` it has mounted, instead of going to the background.
//! - `fail`, `killed`: an exit status or a signal, instead of mounting.
//! - `nothing`: mounts nothing, and says that all is well.
//! - `type`, `source`: what the mount shows instead of `quobyte` and `quobyte@VOLUME`.
//! - `allow_other`: the file system is for all users.
//! - `dies`: the server is gone when the program ends.
//! - `stalls`: the server answers nothing.
//! - `data`: the directory that is served; without it, nothing lies in the volume.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEntry, ReplyWrite, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};
use nix::sys::signal::{Signal, raise};
use nix::unistd::{getegid, geteuid, setsid};
use serde_json::{Value, json};

use crate::kernel::status_field;

/// The name of the program.
pub(crate) const PROGRAM: &str = "mount.quobyte";
/// The name of its background part.
pub(crate) const SERVER: &str = "quobyte-server";

/// Either part, with the command line of the first.
pub(crate) fn main(name: &str) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (volume, target, config) = match words[..] {
        ["--disable-xattrs", volume, target] => (volume, target, Value::Null),
        ["--disable-xattrs", volume, target, "-c", config] => {
            let text = fs::read_to_string(config).unwrap();
            (volume, target, serde_json::from_str(&text).unwrap())
        }
        _ => {
            eprintln!("usage: {PROGRAM} --disable-xattrs VOLUME MOUNTPOINT [-c CONFIG]");
            return ExitCode::from(2);
        }
    };
    if name == SERVER {
        serve(volume, Path::new(target), &config)
    } else {
        start(&config)
    }
}

fn start(config: &Value) -> ExitCode {
    if let Some(path) = config["dump"].as_str() {
        dump(path);
    }
    // Nobody may take it.
    let _ = io::stderr().write_all(config["say"].as_str().unwrap_or_default().as_bytes());
    for _ in 0..config["flood"].as_u64().unwrap_or_default() {
        let _ = io::stderr().write(b"x");
    }
    if let Some(path) = config["wait"].as_str() {
        while !Path::new(path).exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    hang_if(config["hang"] == "before");
    if let Some(number) = config["killed"].as_i64() {
        raise(Signal::try_from(i32::try_from(number).unwrap()).unwrap()).unwrap();
    }
    if let Some(status) = config["fail"].as_u64() {
        return ExitCode::from(u8::try_from(status).unwrap());
    }
    if config["nothing"] == true {
        return ExitCode::SUCCESS;
    }
    let is_mounted = serve_in_background(config["dies"] == true);
    hang_if(config["hang"] == "after");
    if is_mounted {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn hang_if(hangs: bool) {
    if hangs {
        loop {
            std::thread::park();
        }
    }
}

/// Writes down what a program can be started with.
fn dump(path: &str) {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        let shown = fs::read_link(&path).unwrap().display().to_string();
        // The directory that is being read.
        let number = path.file_name().unwrap().to_str().unwrap().to_owned();
        (!shown.starts_with("/proc/")).then_some((number, shown))
    });
    let own = nix::unistd::getpid();
    let dumped = json!({
        "arguments": std::env::args().collect::<Vec<_>>(),
        "environment": std::env::vars().collect::<BTreeMap<_, _>>(),
        "descriptors": descriptors.collect::<BTreeMap<_, _>>(),
        "directory": std::env::current_dir().unwrap(),
        "cgroup": fs::read_to_string("/proc/self/cgroup").unwrap(),
        "blocked": status_field(own, "SigBlk"),
    });
    fs::write(path, dumped.to_string()).unwrap();
}

/// Gives whether it has mounted.
fn serve_in_background(dies: bool) -> bool {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut server = {
        let mut command = Command::new("/proc/self/exe");
        command.arg0(SERVER).args(std::env::args_os().skip(1));
        command.stdin(OwnedFd::from(theirs)).spawn().unwrap()
    };
    let is_mounted = ours.read(&mut [0]).unwrap() == 1;
    if dies || !is_mounted {
        server.wait().unwrap();
    }
    is_mounted
}

/// Serves until the mount ends. Standard input is told when it is there.
fn serve(volume: &str, target: &Path, config: &Value) -> ExitCode {
    setsid().unwrap();
    let text = |key: &str| config[key].as_str().map(str::to_owned);
    // A comma would end the option.
    let shown = format!("quobyte@{}", volume.replace(',', "|"));
    let mut options = Config::default();
    options.mount_options = vec![
        MountOption::FSName(text("source").unwrap_or(shown)),
        MountOption::Subtype(text("type").unwrap_or("quobyte".to_owned())),
    ];
    if config["allow_other"] == true {
        options.acl = SessionACL::All;
    }
    let served = Served {
        data: text("data").map(PathBuf::from),
        stalls: config["stalls"] == true,
        names: Mutex::default(),
    };
    let session = match Session::new(served, target, &options) {
        Ok(session) => session,
        Err(error) => {
            eprintln!("{PROGRAM}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let input = io::stdin().as_fd().try_clone_to_owned().unwrap();
    UnixStream::from(input).write_all(b"\n").unwrap();
    if config["dies"] == true {
        // Not by way of the session's end, which would unmount.
        std::process::exit(0);
    }
    match session.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The files of one directory.
struct Served {
    data: Option<PathBuf>,
    stalls: bool,
    /// By their numbers.
    names: Mutex<BTreeMap<u64, OsString>>,
}

/// So that the kernel asks each time.
const KEPT: Duration = Duration::ZERO;

impl Served {
    /// A file, or the directory itself.
    fn path(&self, inode: INodeNo) -> io::Result<PathBuf> {
        let nothing = || io::Error::from(io::ErrorKind::NotFound);
        let data = self.data.clone().ok_or_else(nothing)?;
        if inode == INodeNo::ROOT {
            return Ok(data);
        }
        let names = self.names.lock().unwrap();
        Ok(data.join(names.get(&inode.0).ok_or_else(nothing)?))
    }

    fn named(&self, name: &OsStr) -> io::Result<FileAttr> {
        let path = self.path(INodeNo::ROOT)?.join(name);
        let found = fs::metadata(path)?;
        self.names
            .lock()
            .unwrap()
            .insert(found.ino(), name.to_owned());
        Ok(attributes(&found))
    }

    fn numbered(&self, inode: INodeNo) -> io::Result<FileAttr> {
        if inode == INodeNo::ROOT {
            return Ok(root());
        }
        Ok(attributes(&fs::metadata(self.path(inode)?)?))
    }

    fn list(&self) -> io::Result<Vec<(u64, OsString)>> {
        let entries = fs::read_dir(self.path(INodeNo::ROOT)?)?;
        entries
            .map(|entry| entry.map(|entry| (entry.metadata().unwrap().ino(), entry.file_name())))
            .collect()
    }

    fn resize(&self, inode: INodeNo, size: Option<u64>) -> io::Result<FileAttr> {
        if let Some(size) = size {
            let file = File::options().write(true).open(self.path(inode)?)?;
            file.set_len(size)?;
        }
        self.numbered(inode)
    }
}

fn root() -> FileAttr {
    FileAttr {
        ino: INodeNo::ROOT,
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0o755,
        nlink: 2,
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn attributes(found: &Metadata) -> FileAttr {
    FileAttr {
        ino: INodeNo(found.ino()),
        size: found.len(),
        blocks: found.blocks(),
        kind: FileType::RegularFile,
        perm: 0o644,
        nlink: 1,
        ..root()
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if self.stalls {
            // Dropped, it would answer.
            return std::mem::forget(reply);
        }
        match self.named(name) {
            Ok(found) => reply.entry(&KEPT, &found, Generation(0)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        if self.stalls {
            return std::mem::forget(reply);
        }
        match self.numbered(inode) {
            Ok(found) => reply.attr(&KEPT, &found),
            Err(error) => reply.error(error.into()),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.resize(inode, size) {
            Ok(found) => reply.attr(&KEPT, &found),
            Err(error) => reply.error(error.into()),
        }
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let made = self
            .path(INodeNo::ROOT)
            .and_then(|data| File::create(data.join(name)))
            .and_then(|_| self.named(name));
        let (nothing, none) = (FileHandle(0), FopenFlags::empty());
        match made {
            Ok(found) => reply.created(&KEPT, &found, Generation(0), nothing, none),
            Err(error) => reply.error(error.into()),
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut bytes = vec![0; usize::try_from(size).unwrap()];
        let read = self
            .path(inode)
            .and_then(File::open)
            .and_then(|file| file.read_at(&mut bytes, offset));
        match read {
            Ok(length) => reply.data(&bytes[..length]),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let file = self
            .path(inode)
            .and_then(|path| File::options().write(true).open(path));
        match file.and_then(|file| file.write_at(data, offset)) {
            Ok(length) => reply.written(u32::try_from(length).unwrap()),
            Err(error) => reply.error(error.into()),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Ok(files) = self.list() else {
            return reply.error(Errno::EIO);
        };
        let from = usize::try_from(offset).unwrap();
        for ((inode, name), next) in files.iter().zip(1_u64..).skip(from) {
            if reply.add(INodeNo(*inode), next, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }
}
