//! The audit log: its lines are what `docs/audit.md` says.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Write as _};
use std::num::NonZeroU32;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use mountwarden_client::protocol::{Hello, Operation, Request, frame};
use mountwarden_client::{
    AbsPath, Batch, Bind, Block, Client, ErrorKind, Fuse, Image, MountAttributes, MountId, Move,
    Network, Overlay, Passing, Remount, Tmpfs, TmpfsInodes, TmpfsMode, TmpfsSize, Unmount,
    Versions,
};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use super::idmaps;
use crate::daemon::{Daemon, START, outcome, wait_for, with_ambient};
use crate::kernel::{self, descendants, is_alive, named, unchanged};
use crate::sandbox::{ALICE, BOB, Sandbox};
use crate::wire::Wire;
use crate::{Skip, lines, roles};

const POLICY: &str = r#"
version = 1
[limits]
connections_per_user = 1
[[grant]]
name = "vm storage"
users = [@UID@]
remount = true
move = true
target = ["@DIR@/mnt"]
passed_target = true
  [grant.bind]
  source = ["@DIR@/src"]
  [grant.tmpfs]
  max_size = "16MiB"
  max_inodes = 1024
"#;

/// What is refused to one client while another is connected is written once.
fn refused(daemon: &Daemon, times: usize) {
    for _ in 0..times {
        let error = Client::connect_to(&daemon.socket).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
    }
}

/// The lines since the last call, the newest last.
struct Tail<'a> {
    daemon: &'a Daemon,
    seen: usize,
}

impl Tail<'_> {
    /// The next line. There is no other.
    fn one(&mut self) -> String {
        let line = wait_for("an audit line", || self.next());
        assert_eq!(self.next(), None, "one line a decision");
        line
    }

    fn next(&mut self) -> Option<String> {
        let log = self.daemon.log();
        let line = log
            .lines()
            .filter(|line| !line.contains(r#""event":"helper""#))
            .nth(self.seen)?
            .to_owned();
        self.seen += 1;
        Some(line)
    }
}

/// Kinds of mount that the grant does not have.
fn other_kinds(
    client: &mut Client,
    base: &Path,
    tail: &mut Tail<'_>,
) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    let block = Block::new("/dev/vg0/data", "ext4", base).unwrap();
    let block = block.option("commit", Some("30")).unwrap();
    client
        .mount(block.option("discard", None).unwrap())
        .unwrap_err();
    all.push(("a device, which the grant does not have", tail.one()));
    let fuse = Fuse::new("sshfs", base)
        .unwrap()
        .source("host:/srv")
        .unwrap();
    client
        .mount_fuse(fuse.allow_other().max_read(65536))
        .unwrap_err();
    all.push((
        "a FUSE file system, which the grant does not have",
        tail.one(),
    ));
    let stick = Fuse::new("ntfs-3g", base).unwrap();
    let stick = stick.device("/dev/vg0/stick", Some(4096)).unwrap();
    client.mount_fuse(stick).unwrap_err();
    all.push(("one on a device, which the grant does not have", tail.one()));
    let layers = ["/srv/layers/app", "/srv/layers/base"];
    client
        .mount(Overlay::new(layers, base).unwrap())
        .unwrap_err();
    all.push(("an overlay, which the grant does not have", tail.one()));
    let image = Image::new("/srv/base.erofs", "erofs", base).unwrap();
    client.mount(image).unwrap_err();
    all.push(("an image, which the grant does not have", tail.one()));
    let network = Network::new("//files.example/vm", "cifs", base).unwrap();
    let network = network.option("ip", Some("192.0.2.7")).unwrap();
    client
        .mount(network.secret("password", "hunter2").unwrap())
        .unwrap_err();
    all.push((
        "a network file system, which the grant does not have",
        tail.one(),
    ));
    all
}

/// Each kind of decision, in order: a heading and its line.
fn decisions(sandbox: &Sandbox, daemon: &Daemon) -> Vec<(&'static str, String)> {
    let mut tail = Tail { daemon, seen: 0 };
    let mut all = Vec::new();
    let mut client = daemon.client();
    let (base, scratch) = (sandbox.path("mnt/a"), sandbox.path("mnt/b"));
    let bind = || {
        Bind::new(sandbox.path("src/data"), &base)
            .unwrap()
            .read_only()
    };
    let tmpfs = || {
        Tmpfs::new(&scratch)
            .unwrap()
            .size(TmpfsSize::try_from(1 << 20).unwrap())
            .inodes(TmpfsInodes::try_from(100).unwrap())
            .mode(TmpfsMode::try_from(0o750).unwrap())
            .no_exec()
    };
    client.mount(bind()).unwrap();
    all.push(("a bind that was made", tail.one()));
    client.mount(bind()).unwrap();
    all.push(("the same again", tail.one()));
    let made = client.mount(tmpfs()).unwrap();
    all.push(("a tmpfs with limits", tail.one()));
    client.mount(Tmpfs::new(&scratch).unwrap()).unwrap_err();
    all.push(("a target that holds another mount", tail.one()));
    client
        .mount(Bind::new("/etc", &base).unwrap().recursive())
        .unwrap_err();
    all.push(("denied by the policy", tail.one()));
    all.extend(other_kinds(&mut client, &base, &mut tail));
    client
        .mount(Tmpfs::new(&base).unwrap().shared())
        .unwrap_err();
    all.push(("a propagation that is not granted", tail.one()));
    let remount = Remount::new(&base).unwrap().no_exec();
    let lifted = MountAttributes::READ_ONLY;
    let remount = remount.lift_from_bind(lifted, sandbox.path("src/data"));
    client.remount(remount.unwrap()).unwrap();
    all.push(("other attributes of a bind", tail.one()));
    let missing = || Tmpfs::new(sandbox.path("mnt/missing")).unwrap();
    client.mount(missing()).unwrap_err();
    all.push((
        "ended in the unprivileged half: the target is not there",
        tail.one(),
    ));
    let other = sandbox.make_dir("mnt/c");
    client
        .move_mount(Move::new(&scratch, &other).unwrap().id(made.mount.id))
        .unwrap();
    all.push(("a tmpfs that was moved", tail.one()));
    client
        .move_mount(Move::new(&other, &scratch).unwrap())
        .unwrap();
    tail.one();
    // One that no later mount of this case can get.
    let newer = MountId::try_from(u64::from(made.mount.id) + (1 << 32)).unwrap();
    let other = Unmount::new(&scratch).unwrap().id(newer);
    client.unmount(other).unwrap_err();
    all.push(("an unmount of another mount than is there", tail.one()));
    let lazy = Unmount::new(&scratch).unwrap().lazy();
    client.unmount(lazy).unwrap();
    all.push(("a lazy unmount", tail.one()));
    client.unmount(Unmount::new(&base).unwrap()).unwrap();
    all.push(("an unmount", tail.one()));
    all.extend(passed(&mut client, bind(), &base, &mut tail));
    refused(daemon, 3);
    all.push(("the user has too many connections", tail.one()));

    // The gate finds room; the mounter of the connection before has not ended.
    let mounter = named(daemon.pid(), "mw-mounter")[0];
    let session = named(daemon.pid(), "mw-session")[0];
    kill(mounter, Signal::SIGSTOP).unwrap();
    drop(client);
    wait_for("the session ends", || (!is_alive(session)).then_some(()));
    refused(daemon, 1);
    all.push(("the same, found by the privileged half", tail.one()));
    kill(mounter, Signal::SIGCONT).unwrap();
    wait_for("the mounter ends", || (!is_alive(mounter)).then_some(()));

    let mut noise = admitted(daemon, Wire::open);
    noise.0.write_all(&0_u32.to_le_bytes()).unwrap();
    all.push(("bytes that are no request", tail.one()));
    let newer = Versions {
        oldest: 7,
        newest: 9,
    };
    let hello = Hello {
        versions: newer,
        ..Hello::default()
    };
    let mut newer = admitted(daemon, Wire::connect);
    frame::write(&mut newer.0, &hello).unwrap();
    all.push(("a client of another version", tail.one()));
    drop((noise, newer));
    all.extend(probe_and_lease(daemon, &mut tail, tmpfs().leased()));
    all.extend(batches(daemon, &mut tail, tmpfs(), missing()));
    all
}

/// A batch that cannot be done, and one that is.
fn batches(
    daemon: &Daemon,
    tail: &mut Tail<'_>,
    tmpfs: Tmpfs,
    missing: Tmpfs,
) -> Vec<(&'static str, String)> {
    if kernel::needs_unique_ids().is_err() {
        return Vec::new();
    }
    wait_for("no connection is open", || {
        (descendants(daemon.pid()).len() == 2).then_some(())
    });
    let mut client = daemon.client();
    let batch = Batch::new().mount(tmpfs);
    client.apply(batch.clone().mount(missing)).unwrap_err();
    let headings = [
        "a mount of a batch",
        "the next one, which cannot be made",
        "so the first is taken back",
        "and that is what became of the batch",
    ];
    let mut all: Vec<_> = headings
        .into_iter()
        .map(|heading| (heading, tail.next().unwrap()))
        .collect();
    let applied = client.apply(batch).unwrap();
    tail.next().unwrap();
    all.push(("a batch of which all mounts are there", tail.one()));
    client.unmount(&applied[0]).unwrap();
    tail.one();
    all
}

/// A probe and a lease, the last line after the end of their connection.
fn probe_and_lease(
    daemon: &Daemon,
    tail: &mut Tail<'_>,
    leased: Tmpfs,
) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    let mut wire = admitted(daemon, Wire::open);
    let target = AbsPath::new("/srv").unwrap();
    let timeout_ms = NonZeroU32::MAX;
    wire.ask(&Request::Probe { target, timeout_ms });
    all.push(("a probe of a place that is not granted", tail.one()));
    if kernel::needs_unique_ids().is_err() {
        return all;
    }
    wire.ask(&Request::Perform(Operation::from(leased)));
    all.push(("a mount with a lease", tail.one()));
    drop(wire);
    all.push(("its end, with its connection", tail.one()));
    all
}

/// A mount whose target is passed, and its unmount.
fn passed(
    client: &mut Client,
    bind: Bind,
    target: &Path,
    tail: &mut Tail<'_>,
) -> [(&'static str, String); 2] {
    let opened = File::open(target).unwrap();
    let made = client.mount_passing(bind, Passing::new().target(&opened));
    let mounted = tail.one();
    let root = File::open(target).unwrap();
    let unmount = Unmount::from(&made.unwrap()).lazy();
    client.unmount_passing(unmount, &root).unwrap();
    [
        ("a bind at a target that the client opened", mounted),
        ("its unmount", tail.one()),
    ]
}

/// A bind that is ID-mapped, where there can be one.
fn mapped(sandbox: &Sandbox) -> Option<(&'static str, String)> {
    idmaps::granted(sandbox, "").ok()?;
    sandbox.policy(&idmaps::policy("").replace("\"test\"", "\"vm storage\""));
    let daemon = Daemon::start(sandbox);
    let bind = idmaps::bind(sandbox).read_only();
    let namespace = idmaps::plain(sandbox);
    idmaps::ask(&mut daemon.client(), bind, &namespace).unwrap();
    let line = daemon.log().lines().last()?.to_owned();
    daemon.stop();
    Some(("a bind that is ID-mapped", line))
}

/// Connects when no other connection is open any more.
fn admitted(daemon: &Daemon, connect: fn(&Path) -> Wire) -> Wire {
    wait_for("no connection is open", || {
        (descendants(daemon.pid()).len() == 2).then_some(())
    });
    connect(&daemon.socket)
}

/// Replaces what differs from run to run.
struct Plain {
    directory: String,
    ids: Vec<u64>,
}

impl Plain {
    fn line(&mut self, line: &str) -> String {
        let value: Value = serde_json::from_str(line).expect(line);
        let mut text = line
            .replace(&format!("{}/mnt", self.directory), "/run/vms/1000")
            .replace(&format!("{}/src", self.directory), "/srv/images");
        for (field, number) in [
            ("time_ms", 1_795_376_230_569_u64),
            ("uid", 1000),
            ("gid", 1000),
            ("pid", 4711),
            ("took_us", 177),
        ] {
            if let Some(found) = value[field].as_u64() {
                text = text.replace(
                    &format!("\"{field}\":{found}"),
                    &format!("\"{field}\":{number}"),
                );
            }
        }
        if value["idmap"].is_array() {
            let ranges = r#"["users 0:100000:65536","groups 0:100000:65536"]"#;
            text = text.replace(&value["idmap"].to_string(), ranges);
        }
        for id in ["id", "only_id", "found_id"].map(|field| value[field].as_u64()) {
            if let Some(id) = id.filter(|id| !self.ids.contains(id)) {
                self.ids.push(id);
            }
        }
        for (index, id) in (2_147_530_164_u64..).zip(&self.ids) {
            text = text.replace(&id.to_string(), &index.to_string());
        }
        text
    }
}

/// Every field that is written is documented with its type, every field that is
/// documented is written, and the examples are what is written.
pub(crate) fn examples_and_fields(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.policy(POLICY);
    let daemon = Daemon::start(sandbox);
    let directory = sandbox.path("").display().to_string();
    let mut plain = Plain {
        directory,
        ids: Vec::new(),
    };
    let mut text = String::new();
    let mut written = BTreeSet::new();
    let mut all = unchanged(|| decisions(sandbox, &daemon));
    daemon.stop();
    all.extend(mapped(sandbox));
    for (heading, line) in all {
        let value: Value = serde_json::from_str(&line).expect(&line);
        lines::check(&value);
        written.extend(value.as_object().unwrap().keys().cloned());
        let first = heading[..1].to_uppercase();
        let (rest, line) = (&heading[1..], plain.line(&line));
        writeln!(text, "\n{first}{rest}:\n\n```json\n{line}\n```").unwrap();
    }
    text.push('\n');
    kernel::needs_unique_ids()?;
    let documented: Vec<_> = lines::fields().into_keys().collect();
    assert_eq!(documented, written.iter().collect::<Vec<_>>());
    lines::compare_examples(&text);
    Ok(())
}

/// A user who is refused again and again leaves a line for each time that it
/// was served in between, and takes nobody else's line away.
pub(crate) fn a_flood_of_connections_is_one_line(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.policy(&POLICY.replace("@UID@", "@UID@, 4001"));
    let daemon = Daemon::start(sandbox);
    let refusals = || -> Vec<Value> {
        let mut lines = daemon.audit();
        lines.retain(|line| line["event"] == "connection");
        lines
    };
    let client = daemon.client();
    refused(&daemon, 20);
    wait_for("a line", || (refusals().len() == 1).then_some(()));
    if sandbox.is_root {
        let mut alice = roles::command(sandbox, "connect");
        alice.arg(&daemon.socket).args(["4001", "4001"]);
        let (status, said, errors) = outcome(&mut alice);
        assert_eq!(status, 0, "{errors}");
        assert!(said.contains("served as 4001"), "{said}");
        refused(&daemon, 20);
        assert_eq!(refusals().len(), 1, "another's admission ends no run");
    }
    drop(client);
    wait_for("no connection is open", || {
        (descendants(daemon.pid()).len() == 2).then_some(())
    });
    let client = daemon.client();
    refused(&daemon, 20);
    drop(client);
    wait_for("no connection is open", || {
        (descendants(daemon.pid()).len() == 2).then_some(())
    });
    // Its connection comes to the warden behind what else the gate says.
    let _client = daemon.client();
    let lines = refusals();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in lines {
        assert_eq!(
            (&line["by"], &line["result"], &line["code"]),
            (&"gate".into(), &"error".into(), &"limit-reached".into())
        );
        assert_eq!(line["uid"], nix::unistd::geteuid().as_raw());
    }
    Ok(())
}

/// A client whom the helper's user namespace has no number for is refused, and
/// the line names nobody.
pub(crate) fn attack_25_a_user_without_a_number(sandbox: &Sandbox) -> Result<(), Skip> {
    sandbox.needs_root()?;
    sandbox.policy(&POLICY.replace("@UID@", "4001, 65534"));
    sandbox.make_dir("run");
    for name in ["", "run", "policy.toml"] {
        std::os::unix::fs::chown(sandbox.path(name), Some(ALICE), Some(ALICE)).unwrap();
    }
    let mut helper = Command::new(sandbox.helper());
    helper.args(["serve", "--userns", "--policy"]);
    helper.arg(sandbox.path("policy.toml"));
    helper.arg("--socket").arg(sandbox.path("run/sock"));
    helper.uid(ALICE).gid(ALICE).stdin(Stdio::null());
    let daemon = Daemon::start_with(sandbox, helper);
    for _ in 0..3 {
        let (status, _, error) = outcome(daemon.cli_as(BOB).arg("list"));
        assert_eq!(status, 3, "{error}");
        assert!(
            error.contains("has no name in the helper's user namespace"),
            "{error}"
        );
    }
    let (status, _, error) = outcome(daemon.cli_as(ALICE).arg("list"));
    assert_eq!(status, 0, "{error}");
    let audit = daemon.audit();
    assert_eq!(audit.len(), 1, "{audit:?}");
    assert_eq!(
        (&audit[0]["event"], &audit[0]["by"], &audit[0]["result"]),
        (&"connection".into(), &"gate".into(), &"denied".into())
    );
    for absent in ["uid", "gid", "pid"] {
        assert_eq!(audit[0].get(absent), None);
    }
    Ok(())
}

/// A process that ends with the case.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What cannot be written down is not done for long: the mount whose line is
/// lost is whole, and the helper ends.
pub(crate) fn a_log_that_is_gone_ends_the_helper(sandbox: &Sandbox) -> Result<(), Skip> {
    let mut command = crate::daemon::command(sandbox);
    command.stderr(Stdio::piped());
    let mut helper = with_ambient(sandbox, &START, || Ended(command.spawn().unwrap()));
    let mut log = BufReader::new(helper.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(" serves on ") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "the helper ended");
    }
    let mut client = Client::connect_to(sandbox.path("run/sock")).unwrap();
    drop(log);
    let target = sandbox.path("mnt/a");
    client.mount(Tmpfs::new(&target).unwrap()).unwrap_err();
    let status = wait_for("the helper ends", || helper.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
    let made = kernel::only(&target);
    assert!(made.options.contains("nosuid,nodev"), "{made:?}");
    assert!(!made.shared, "{made:?}");
    Ok(())
}
