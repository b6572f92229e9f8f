//! Network file systems. `helper/tests/kernels/run` has servers for them; most other
//! machines have not even the types.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mountwarden_client::{
    DenyReason, Error, ErrorKind, Health, MountAttributes, Network, Outcome, Unmount,
};

use nix::libc::{ENOENT, EROFS};

use crate::daemon::{Daemon, outcome, wait_for};
use crate::kernel::{self, unchanged};
use crate::sandbox::{SECOND, Sandbox};
use crate::{Skip, slowly};

const POLICY: &str = r#"
version = 1

[limits]
request_timeout = "@TIMEOUT@"

[[grant]]
name = "files"
users = [@UID@]
target = ["@DIR@/mnt"]
  [grant.network]
  source = ["127.0.0.1:/*", "//files.invalid/*", "files"]
  filesystems = ["nfs", "nfs4", "cifs", "9p", "ceph", "virtiofs", "smb3"]
  options = ["addr=127.0.0.1", "vers=4.2", "soft", "port=*", "no_such_option"]
  secrets = ["password"]

[[grant]]
name = "read"
users = [@UID@]
target = ["@DIR@/read"]
  [grant.network]
  source = ["127.0.0.1:/"]
  filesystems = ["nfs4"]
  options = ["addr=127.0.0.1", "vers=4.2"]
  read_only = true
"#;

/// Where the server's tree is on this machine, if it has one.
pub(super) const NFS: &str = "MOUNTWARDEN_NFS";
/// The same for the machine below; the tag is `files`.
pub(super) const VIRTIOFS: &str = "MOUNTWARDEN_VIRTIOFS";

pub(super) fn tree(variable: &str) -> Result<String, Skip> {
    let given = std::env::var(variable);
    given.map_err(|_| {
        Skip(format!(
            "no server here: helper/tests/kernels/run has one ({variable})"
        ))
    })
}

pub(super) fn mounts_them(sandbox: &Sandbox) -> Result<(), Skip> {
    if sandbox.is_root {
        return Ok(());
    }
    let why = "the kernel mounts no network file system in another user namespace than its first";
    Err(Skip(why.to_owned()))
}

fn start(sandbox: &Sandbox, timeout: Duration) -> Daemon {
    sandbox.make_dir("read/a");
    let timeout = format!("{}s", timeout.as_secs());
    sandbox.policy(&POLICY.replace("@TIMEOUT@", &timeout));
    Daemon::start(sandbox)
}

fn patient(sandbox: &Sandbox) -> Daemon {
    start(sandbox, slowly(30 * SECOND))
}

/// The export, through this port of this machine.
pub(super) fn nfs(sandbox: &Sandbox, name: &str, port: u16) -> Network {
    Network::new("127.0.0.1:/", "nfs4", sandbox.path(name))
        .and_then(|nfs| nfs.option("addr", Some("127.0.0.1")))
        .and_then(|nfs| nfs.option("vers", Some("4.2")))
        .and_then(|nfs| nfs.option("port", Some(&port.to_string())))
        .unwrap()
}

pub(super) const PORT: u16 = 2049;

pub(crate) fn nfs4(sandbox: &Sandbox) -> Result<(), Skip> {
    mounts_them(sandbox)?;
    let served = tree(NFS)?;
    let daemon = patient(sandbox);
    let mut client = daemon.client();
    let target = sandbox.path("mnt/a");
    let mounted = client.mount(nfs(sandbox, "mnt/a", PORT)).unwrap();
    assert_eq!(mounted.outcome, Outcome::Mounted);
    assert_eq!(mounted.mount.filesystem, "nfs4");
    let forced = MountAttributes::NO_SUID | MountAttributes::NO_DEV;
    assert_eq!(mounted.mount.attributes, forced);
    let line = kernel::only(&target);
    assert_eq!(
        (&line.filesystem[..], &line.source[..]),
        ("nfs4", "127.0.0.1:/")
    );
    let name = format!("of-{}", std::process::id());
    fs::write(target.join(&name), "kept").unwrap();
    assert_eq!(
        fs::read_to_string(format!("{served}/{name}")).unwrap(),
        "kept"
    );

    let again = unchanged(|| client.mount(nfs(sandbox, "mnt/a", PORT)).unwrap());
    assert_eq!(again.outcome, Outcome::AlreadyMounted);
    assert_eq!(again.mount, mounted.mount);
    for (other, why) in [
        (
            nfs(sandbox, "mnt/a", PORT).option("soft", None).unwrap(),
            "it is another file system, or has other options",
        ),
        (
            nfs(sandbox, "mnt/a", PORT).no_exec(),
            "it has other attributes",
        ),
    ] {
        let error = unchanged(|| client.mount(other).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    client.unmount(&mounted).unwrap();
    assert_eq!(kernel::at(&target), []);

    // What is forced holds for the file system, too.
    let read = Network::new("127.0.0.1:/", "nfs4", sandbox.path("read/a"));
    let read = read
        .and_then(|read| read.option("addr", Some("127.0.0.1")))
        .and_then(|read| read.option("vers", Some("4.2")));
    client.mount(read.unwrap()).unwrap();
    let line = kernel::only(&sandbox.path("read/a"));
    assert!(line.super_options.starts_with("ro"), "{line:?}");
    let gone = fs::remove_file(sandbox.path("read/a").join(&name)).unwrap_err();
    assert_eq!(gone.raw_os_error(), Some(EROFS));
    Ok(())
}

pub(crate) fn virtiofs(sandbox: &Sandbox) -> Result<(), Skip> {
    mounts_them(sandbox)?;
    tree(VIRTIOFS)?;
    let daemon = patient(sandbox);
    let mut client = daemon.client();
    let files = || Network::new("files", "virtiofs", sandbox.path("mnt/a")).unwrap();
    let mounted = client.mount(files()).unwrap();
    let greeting = fs::read_to_string(sandbox.path("mnt/a/greeting")).unwrap();
    assert_eq!(greeting, "from below\n");
    let again = unchanged(|| client.mount(files()).unwrap());
    assert_eq!(again.mount, mounted.mount);
    client.unmount(&mounted).unwrap();
    Ok(())
}

/// A lease ends it as any other.
pub(crate) fn a_lease_ends_it(sandbox: &Sandbox) -> Result<(), Skip> {
    mounts_them(sandbox)?;
    kernel::needs_unique_ids()?;
    tree(NFS)?;
    let daemon = patient(sandbox);
    let mut client = daemon.client();
    client.mount(nfs(sandbox, "mnt/a", PORT).leased()).unwrap();
    drop(client);
    wait_for("the leased mount ends", || {
        kernel::at(&sandbox.path("mnt/a")).is_empty().then_some(())
    });
    Ok(())
}

/// The nearest request that is granted gets as far as the kernel, which lacks the type or
/// has no such server.
pub(crate) fn attack_14_refusals(sandbox: &Sandbox) -> Result<(), Skip> {
    let daemon = patient(sandbox);
    let mut client = daemon.client();
    let of = |source: &str, filesystem: &str| {
        Network::new(source, filesystem, sandbox.path("mnt/a")).unwrap()
    };
    let granted = || of("//files.invalid/vm", "cifs");
    for (request, reason) in [
        (
            of("//files.invalid/vm/7", "cifs"),
            DenyReason::SourceNotGranted,
        ),
        (
            of("//other.invalid/vm", "cifs"),
            DenyReason::SourceNotGranted,
        ),
        (
            of("//files.invalid/vm", "ext4"),
            DenyReason::FilesystemNotGranted,
        ),
        (
            granted().option("addr", Some("127.0.0.2")).unwrap(),
            DenyReason::OptionNotGranted,
        ),
        (
            granted().option("password", Some("hunter2")).unwrap(),
            DenyReason::OptionNotGranted,
        ),
        (
            granted().secret("password2", "hunter2").unwrap(),
            DenyReason::OptionNotGranted,
        ),
        (granted().suid(), DenyReason::SuidNotGranted),
        (granted().dev(), DenyReason::DevNotGranted),
    ] {
        let error = unchanged(|| client.mount(request).unwrap_err());
        assert_eq!(
            (error.kind(), error.reason()),
            (ErrorKind::Denied, Some(reason)),
            "{error}"
        );
    }
    let error = unchanged(|| client.mount(granted()).unwrap_err());
    assert_ne!(error.kind(), ErrorKind::Denied, "{error}");
    Ok(())
}

/// Each type is one that the kernel may be asked for; what it answers without a server is
/// told.
pub(crate) fn each_type_is_asked_of_the_kernel(sandbox: &Sandbox) -> Result<(), Skip> {
    let known = fs::read_to_string("/proc/filesystems").unwrap();
    let daemon = patient(sandbox);
    let mut client = daemon.client();
    for name in mountwarden_policy::NETWORK_TYPES {
        // Without the address or the option that each needs.
        let request = Network::new("127.0.0.1:/none", name, sandbox.path("mnt/a")).unwrap();
        let error = unchanged(|| client.mount(request).unwrap_err());
        let is_known = known
            .lines()
            .any(|line| line.trim_start_matches("nodev").trim() == name);
        if !is_known && error.kind() == ErrorKind::Unsupported {
            assert!(
                error
                    .to_string()
                    .contains("this kernel has no such file system"),
                "{error}"
            );
            assert!(error.to_string().contains("load its module"), "{error}");
        } else {
            assert!(error.errno().is_some(), "{error}");
        }
        assert_eq!(daemon.last_audit()["type"], name);
    }
    Ok(())
}

/// Neither where it is refused, nor where it fails.
pub(crate) fn a_secret_is_nobodys(sandbox: &Sandbox) -> Result<(), Skip> {
    const SECRET: &str = "hunter2-but-longer";
    let daemon = patient(sandbox);
    let mut client = daemon.client();
    let of = |key: &str| {
        let network = Network::new("//files.invalid/vm", "cifs", sandbox.path("mnt/a"));
        network.unwrap().secret(key, SECRET).unwrap()
    };
    let mut said = vec![format!("{:?}", of("password"))];
    let note = |error: &Error| format!("{error} {error:?}");
    said.push(note(&client.mount(of("password")).unwrap_err()));
    assert_eq!(daemon.last_audit()["secrets"], "password");
    said.push(note(&client.mount(of("password2")).unwrap_err()));
    for key in ["password", "password2"] {
        said.push(format!("{:?}", client.explain(of(key)).unwrap()));
    }
    let key = sandbox.write("key", &format!("{SECRET}\nsecond line\n"));
    for more in [&[][..], &["--json"]] {
        let secret = format!("password={}", key.display());
        let mut command = daemon.cli();
        command
            .args(["mount", "network", "//files.invalid/vm"])
            .arg(sandbox.path("mnt/a"))
            .args(["--type", "cifs", "--secret-file", &secret])
            .args(more);
        let (status, printed, error) = outcome(&mut command);
        assert_ne!(status, 0);
        said.extend([printed, error]);
    }
    assert_eq!(daemon.last_audit()["secrets"], "password");
    said.push(daemon.log());
    said.push(fs::read_to_string("/proc/self/mountinfo").unwrap());
    let said = said.concat();
    assert!(
        !said.contains(SECRET) && !said.contains("second line"),
        "{said}"
    );
    // That what is searched would have had it.
    assert!(said.contains("files.invalid") && said.contains("password2"));
    let error = client.mount(of("password")).unwrap_err();
    assert_ne!(error.kind(), ErrorKind::Denied, "{error}");
    Ok(())
}

/// A server that takes the connection and says nothing: its own request ends at the
/// deadline, and others are served.
pub(crate) fn attack_31_a_server_that_never_answers(sandbox: &Sandbox) -> Result<(), Skip> {
    mounts_them(sandbox)?;
    tree(NFS)?;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let daemon = start(sandbox, slowly(SECOND));
    let mut client = daemon.client();
    let error = unchanged(|| client.mount(nfs(sandbox, "mnt/a", port)).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert_eq!(daemon.client().list().unwrap(), []);
    assert_eq!(kernel::at(&sandbox.path("mnt/a")), []);
    Ok(())
}

/// What was mounted and has lost its server is told from what answers, and goes away.
pub(crate) fn attack_31_a_server_that_goes(sandbox: &Sandbox) -> Result<(), Skip> {
    mounts_them(sandbox)?;
    tree(NFS)?;
    let (port, silence) = relay();
    let daemon = start(sandbox, slowly(2 * SECOND));
    let mut client = daemon.client();
    let mounted = client.mount(nfs(sandbox, "mnt/a", port)).unwrap();
    let target = sandbox.path("mnt/a");
    let probe = |time| unchanged(|| daemon.client().probe(&target, time).unwrap());
    assert_eq!(probe(slowly(2 * SECOND)).health, Health::Alive);
    silence.send(()).unwrap();
    wait_for("the relay is silent", || {
        matches!(
            probe(Duration::from_millis(300)).health,
            Health::Hung { .. }
        )
        .then_some(())
    });
    assert_eq!(client.list().unwrap(), [mounted.mount]);
    // The kernel takes leave of the server before it returns, as long as it is let.
    let ended = client.unmount(Unmount::new(&target).unwrap().lazy());
    if let Err(error) = ended {
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    }
    assert_eq!(kernel::at(&target), []);
    assert_eq!(daemon.client().list().unwrap(), []);
    Ok(())
}

/// Relays to the server, until it is told to be silent. Its threads end with the case's
/// process.
fn relay() -> (u16, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (silence, told) = mpsc::channel();
    thread::spawn(move || {
        let (from, _) = listener.accept().unwrap();
        let to = TcpStream::connect(("127.0.0.1", PORT)).unwrap();
        for (mut from, mut to) in [
            (from.try_clone().unwrap(), to.try_clone().unwrap()),
            (to.try_clone().unwrap(), from.try_clone().unwrap()),
        ] {
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = from.read(&mut buffer) {
                    if to.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
            });
        }
        // The kernel's end stays open, and hears nothing any more.
        if told.recv().is_ok() {
            to.shutdown(Shutdown::Both).unwrap();
            let _stays_open = (from, listener);
            loop {
                thread::park();
            }
        }
    });
    (port, silence)
}

/// What the server does not have.
pub(crate) fn an_export_that_is_not_there(sandbox: &Sandbox) -> Result<(), Skip> {
    mounts_them(sandbox)?;
    tree(NFS)?;
    let daemon = patient(sandbox);
    let mut client = daemon.client();
    let request = Network::new("127.0.0.1:/none", "nfs4", sandbox.path("mnt/a"))
        .and_then(|request| request.option("addr", Some("127.0.0.1")))
        .and_then(|request| request.option("vers", Some("4.2")));
    let error = unchanged(|| client.mount(request.unwrap()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
    assert_eq!(error.errno(), Some(ENOENT), "{error}");
    let refused = nfs(sandbox, "mnt/a", PORT)
        .option("no_such_option", None)
        .unwrap();
    let error = unchanged(|| client.mount(refused).unwrap_err());
    assert!(error.to_string().contains("no_such_option"), "{error}");
    Ok(())
}
