//! `docs/confinement.md` says what is true of this build. Its tables are written by
//!
//! ```sh
//! MOUNTWARDEN_WRITE_CONFINEMENT=1 cargo test -p mountwarden-helper --test e2e -- document
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use mountwarden_client::{
    Batch, Bind, Client, Detach, ErrorKind, Health, MountAttributes, MountId, Outcome, Passing,
    Remount, Tmpfs, Unmount,
};
use serde_json::Value;

use super::confinement::{items, tables};
use super::idmaps;
use crate::daemon::{Daemon, wait_for};
use crate::kernel;
use crate::sandbox::{SECOND, Sandbox};
use crate::{Skip, source_lines, tracer};

/// Writes the tables instead of comparing them.
const WRITE: &str = "MOUNTWARDEN_WRITE_CONFINEMENT";
const BEGIN: &str = "<!-- written by a test: begin -->\n";
const END: &str = "<!-- written by a test: end -->\n";

/// What is measured.
const SCENARIO: &str = "document::one_of_each";

const ROLES: [&str; 5] = ["gate", "session", "warden", "mounter", "locker"];

/// The cells of a row that follow from the code alone; the others are measured.
const FROM_CODE: usize = 5;

/// The most lines of our own that may run in a mounter, and system calls.
const MOUNTER: (usize, u64) = (2480, 30);

/// The lines that ran, by role and by whose they are.
type Ran = BTreeMap<(String, String), BTreeSet<String>>;

/// One request of each kind and outcome: what is measured.
pub(crate) fn one_of_each(sandbox: &Sandbox) -> Result<(), Skip> {
    let limits = "[limits]\nmounts_per_user = 3\n[[grant]]\nremount = true\ndetached = true";
    let maps = "recursive = true\n  idmap.uids = [\"0:0:4294967295\"]\n  \
                idmap.gids = [\"0:0:4294967295\"]";
    let policy = super::passed::policy().replacen("[[grant]]", limits, 1);
    sandbox.policy(&policy.replacen("recursive = true", maps, 1));
    let daemon = Daemon::start(sandbox);
    let mut client = daemon.client();
    let place = |name: &str| sandbox.path(&format!("mnt/{name}"));
    let bind = |source: &str, name: &str| Bind::new(sandbox.path(source), place(name)).unwrap();
    let tmpfs = |name: &str| Tmpfs::new(place(name)).unwrap();
    let by_path = |name: &str| Unmount::new(place(name)).unwrap();

    let made = client.mount(bind("src/data", "a")).unwrap();
    let again = client.mount(bind("src/data", "a")).unwrap();
    assert_eq!(again.outcome, Outcome::AlreadyMounted);
    client
        .mount(bind("src/data", "b").recursive().read_only())
        .unwrap();
    client
        .mount(bind("src/data", "b").recursive().read_only())
        .unwrap();
    client.mount(bind("src/data/file", "file")).unwrap();
    sandbox.make_dir("mnt/c");
    let full = client.mount(tmpfs("c")).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::LimitReached, "{full}");

    for (error, kind) in [
        (client.mount(tmpfs("a")).unwrap_err(), ErrorKind::Busy),
        (
            client.mount(bind("src/other", "a")).unwrap_err(),
            ErrorKind::Busy,
        ),
        (
            client.mount(tmpfs("missing")).unwrap_err(),
            ErrorKind::NotFound,
        ),
        (
            client
                .mount(Bind::new("/etc", place("c")).unwrap())
                .unwrap_err(),
            ErrorKind::Denied,
        ),
    ] {
        assert_eq!(error.kind(), kind, "{error}");
    }
    assert_eq!(client.list().unwrap().len(), 3);
    client.status().unwrap();
    client.explain(tmpfs("a")).unwrap();
    client.explain(by_path("a")).unwrap();

    let remount = Remount::new(place("b")).unwrap().no_exec();
    client.remount(remount.clone()).unwrap();
    let lift = remount.lift_from_bind(MountAttributes::READ_ONLY, sandbox.path("src/data"));
    client.remount(lift.unwrap()).unwrap();

    let open = fs::File::open(place("b/file")).unwrap();
    assert_eq!(
        client.unmount(by_path("b")).unwrap_err().kind(),
        ErrorKind::Busy
    );
    client.unmount(by_path("b").lazy()).unwrap();
    drop(open);
    let wrong = MountId::try_from(u64::from(made.mount.id) + 1).unwrap();
    assert_eq!(
        client.unmount(by_path("a").id(wrong)).unwrap_err().kind(),
        ErrorKind::IdMismatch
    );
    client.unmount(&made).unwrap();
    client.unmount(by_path("file")).unwrap();
    assert_eq!(
        client.unmount(by_path("file")).unwrap_err().kind(),
        ErrorKind::NotMounted
    );

    client.mount(tmpfs("a")).unwrap();
    client.mount(tmpfs("a")).unwrap();
    let probe = client.probe(place("a"), crate::slowly(SECOND)).unwrap();
    assert_eq!(probe.health, Health::Alive);
    client.unmount(by_path("a")).unwrap();
    if kernel::needs_unique_ids().is_ok() {
        leases(&daemon, &mut client, &tmpfs("a"));
        batches(&mut client, &tmpfs("a"), &tmpfs("missing"));
    }
    passed(&mut client, &sandbox.path("src/data"), &place("a"));
    by_the_locker(sandbox, &mut client, bind("src/data", "a"));
    // What no directory and no file is reaches the mounter, which refuses it.
    nix::unistd::mkfifo(
        &place("pipe"),
        nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IROTH,
    )
    .unwrap();
    assert_eq!(
        client.mount(tmpfs("pipe")).unwrap_err().kind(),
        ErrorKind::WrongType
    );
    assert!(kernel::at(&place("a")).is_empty());
    drop(client);
    daemon.stop();
    Ok(())
}

/// What is handed over, and a bind that is ID-mapped.
fn by_the_locker(sandbox: &Sandbox, client: &mut Client, bind: Bind) {
    for source in ["src/data", "src/data/file"] {
        let detach = Detach::new(sandbox.path(source)).unwrap();
        client.detach(detach.read_only()).unwrap();
    }
    if kernel::needs(6, 3, "an ID-mapped tmpfs").is_ok() {
        let namespace = idmaps::plain(sandbox);
        let mapped = idmaps::ask(client, bind, &namespace);
        client.unmount(&mapped.unwrap()).unwrap();
    }
}

/// A lease that its owner ends, and one that ends with its connection.
fn leases(daemon: &Daemon, client: &mut Client, mount: &Tmpfs) {
    let leased = client.mount(mount.clone().leased()).unwrap();
    client.unmount(&leased).unwrap();
    let mut other = daemon.client();
    let leased = other.mount(mount.clone().leased()).unwrap();
    drop(other);
    wait_for("the leased mount ends", || {
        let target = leased.mount.target.as_path();
        kernel::at(target).is_empty().then_some(())
    });
}

/// A batch that is kept, and one that is taken back.
fn batches(client: &mut Client, there: &Tmpfs, missing: &Tmpfs) {
    let batch = Batch::new().mount(there.clone());
    for mount in client.apply(batch.clone()).unwrap() {
        client.unmount(&mount).unwrap();
    }
    let error = client.apply(batch.mount(missing.clone())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// A bind whose locations are passed, again, and its unmount.
fn passed(client: &mut Client, source: &Path, target: &Path) {
    let bind = || Bind::new(source, target).unwrap();
    let (to, from) = (fs::File::open(target), fs::File::open(source));
    let (to, from) = (to.unwrap(), from.unwrap());
    let both = Passing::new().target(&to).source(&from);
    client.mount_passing(bind(), both).unwrap();
    let covered = client.mount_passing(bind(), both).unwrap_err();
    assert_eq!(covered.kind(), ErrorKind::Busy);
    let root = fs::File::open(target).unwrap();
    let unmount = Unmount::new(target).unwrap().lazy();
    client.unmount_passing(unmount, &root).unwrap();
}

pub(crate) fn tables_are_true(sandbox: &Sandbox) -> Result<(), Skip> {
    if let Some(other) = is_of_another() {
        return Err(Skip(format!("the document is of {other}")));
    }
    let printed = tables(sandbox);
    let path = root().join("docs/confinement.md");
    let document = fs::read_to_string(&path).unwrap();
    let (before, rest) = document.split_once(BEGIN).expect("where the tables begin");
    let (written, after) = rest.split_once(END).expect("where the tables end");
    let unable = unable(sandbox);
    let ran = match &unable {
        None => measure(sandbox, &printed),
        Some(_) => Ran::new(),
    };
    let now = format!("{}\n{}", roles_table(&printed, &ran), crates_table(&ran));
    if std::env::var_os(WRITE).is_some() {
        assert_eq!(unable, None);
        fs::write(&path, format!("{before}{BEGIN}{now}{END}{after}")).unwrap();
    } else {
        compare(written, &now, unable.is_none());
    }
    if let Some(why) = unable {
        return Err(Skip(format!("what follows from the code is true; {why}")));
    }
    let of = |whose: &str| count(&ran, "mounter", |group| group.starts_with(whose));
    assert!(
        of(OURS) <= MOUNTER.0,
        "a mounter runs {} lines of ours",
        of(OURS)
    );
    let calls = items(&printed["roles"])[3]["system_calls"].as_u64();
    assert!(
        calls <= Some(MOUNTER.1),
        "a mounter has {calls:?} system calls"
    );
    Ok(())
}

/// What the document is of, where the tables here are others.
fn is_of_another() -> Option<&'static str> {
    if kernel::needs_unique_ids().is_err() {
        Some("a kernel that has statmount")
    } else if !cfg!(debug_assertions) {
        Some("a debug build, in which std makes a call more")
    } else {
        None
    }
}

/// Why nothing can be measured here.
fn unable(sandbox: &Sandbox) -> Option<&'static str> {
    if !sandbox.is_root {
        Some("only root can trace the helper")
    } else if !tracer::is_able() {
        Some("the tracer knows the registers of x86_64 alone")
    } else if !source_lines::are_known(&sandbox.helper()) {
        Some("this build has no debug information")
    } else {
        None
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

/// Runs the scenario with a breakpoint on each line of the helper.
fn measure(sandbox: &Sandbox, printed: &Value) -> Ran {
    let table = sandbox.write("tables.json", &printed.to_string());
    let scratch = sandbox.make_dir("ran");
    let program = sandbox.helper();
    let text = tracer::trace_case(SCENARIO, &[&table, &program], &scratch, || false);
    let said = fs::read_to_string(scratch.join(SCENARIO).with_extension("said"));
    let passed = text.ends_with(&format!("{} 0\n", tracer::ENDED));
    assert!(passed, "{}", said.unwrap_or_default());
    let mut ran = Ran::new();
    for line in text
        .lines()
        .filter_map(|line| line.strip_prefix(tracer::LINE))
    {
        let (role, place) = line.trim_start().split_once(' ').unwrap();
        let group = whose(place);
        ran.entry((role.to_owned(), group))
            .or_default()
            .insert(place.to_owned());
    }
    ran
}

const OURS: &str = "ours: ";
const STD: &str = "std, core, alloc";

/// Whose a line is, by the path of its file.
fn whose(place: &str) -> String {
    let root = root();
    if let Some(ours) = place
        .strip_prefix(root.to_str().unwrap())
        .filter(|path| !path.contains("/vendor/"))
    {
        let name = ours.trim_start_matches('/').split('/').next().unwrap();
        return format!("{OURS}{name}");
    }
    if place.starts_with("/rustc/")
        || place.starts_with("/rust/")
        || place.contains("/rustlib/src/rust/")
    {
        return STD.to_owned();
    }
    // `NAME-VERSION/src/...`, of a registry or a vendored tree.
    let directory = place
        .split("/src/")
        .filter_map(|part| part.rsplit('/').next())
        .find_map(|name| {
            let (name, version) = name.rsplit_once('-')?;
            version
                .starts_with(|c: char| c.is_ascii_digit())
                .then_some(name)
        });
    directory.unwrap_or("others").to_owned()
}

fn count(ran: &Ran, role: &str, of: impl Fn(&str) -> bool) -> usize {
    ran.iter()
        .filter(|((r, group), _)| r == role && of(group))
        .map(|(_, lines)| lines.len())
        .sum()
}

/// The lines of code in those files of ours that have a line that ran: neither blank,
/// nor comment, nor test.
fn lines_of_files(ran: &Ran, role: &str) -> usize {
    let files: BTreeSet<&str> = ran
        .iter()
        .filter(|((r, group), _)| r == role && group.starts_with(OURS))
        .flat_map(|(_, lines)| lines)
        .map(|line| line.rsplit_once(':').unwrap().0)
        .collect();
    let code = |file: &&str| {
        let text = fs::read_to_string(file).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap().to_owned();
        let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
        text.lines().filter(is_code).count()
    };
    files.iter().map(code).sum()
}

fn roles_table(printed: &Value, ran: &Ran) -> String {
    let head = [
        "role",
        "user",
        "capabilities",
        "Landlock",
        "system calls",
        "our lines that run",
        "lines of their files",
        "dependencies' lines that run",
        "std's lines that run",
    ];
    let rows = items(&printed["roles"]).iter().map(|table| {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let role = text(&table["role"]);
        let capabilities: Vec<String> = items(&table["capabilities"]).iter().map(text).collect();
        let is_ours = |group: &str| group.starts_with(OURS);
        vec![
            role.clone(),
            text(&table["user"]),
            if capabilities.is_empty() {
                "none".to_owned()
            } else {
                capabilities.join(", ")
            },
            text(&table["landlock"]["rule"]),
            table["system_calls"].to_string(),
            count(ran, &role, is_ours).to_string(),
            lines_of_files(ran, &role).to_string(),
            count(ran, &role, |group| !is_ours(group) && group != STD).to_string(),
            count(ran, &role, |group| group == STD).to_string(),
        ]
    });
    table(&head, rows)
}

fn crates_table(ran: &Ran) -> String {
    let mut groups: Vec<&str> = ran.keys().map(|(_, group)| &group[..]).collect();
    groups.sort_unstable_by_key(|group| (!group.starts_with(OURS), *group));
    groups.dedup();
    let rows = groups.into_iter().map(|group| {
        let counts = ROLES.map(|role| count(ran, role, |of| of == group).to_string());
        [&[group.to_owned()], &counts[..]].concat()
    });
    table(&[&["lines that run, of"], &ROLES[..]].concat(), rows)
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    let rows: Vec<String> = rows
        .map(|row| format!("| {} |\n", row.join(" | ")))
        .collect();
    head + &rows.concat()
}

/// Compares row by row and cell by cell. What follows from the code must be equal,
/// what is measured nearly so.
fn compare(written: &str, now: &str, measures: bool) {
    let advice = format!("if that is meant, run it with {WRITE}=1");
    let rows = |text: &str| -> Vec<Vec<String>> {
        let cells = |line: &str| {
            let cells = line.split('|').map(|cell| cell.trim().to_owned());
            cells.collect()
        };
        text.lines().map(cells).collect()
    };
    let (written, now) = (rows(written), rows(now));
    // Two lines of the head, and a line for each role.
    let roles = ROLES.len() + 2;
    let compared = if measures { now.len() } else { roles };
    assert!(written.len() >= compared, "rows are missing: {advice}");
    for (row, (old, new)) in written.iter().zip(&now).take(compared).enumerate() {
        // The first cell is what stands before the first bar: nothing.
        let from_code = if row < roles { FROM_CODE + 1 } else { 2 };
        for (column, (old, new)) in old.iter().zip(new).enumerate() {
            if column >= from_code && !measures {
                continue;
            }
            let numbers = (old.parse::<usize>(), new.parse::<usize>());
            let near = match numbers {
                (Ok(old), Ok(new)) => old.abs_diff(new) <= 10.max(new / 10),
                _ => false,
            };
            let holds = old == new || (column >= from_code && near);
            assert!(holds, "the document says {old}, and it is {new}: {advice}");
        }
    }
}
