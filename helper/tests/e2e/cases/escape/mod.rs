//! Escapes from inside: each role in an attacker's hands, and what it then can do.
//!
//! The roles are puppets: processes of the unmodified helper, confined as they are.
//! Gate, warden and locker may fork, so a child with the same memory and confinement dies in their
//! place; each session and mounter that dies is one of a new connection.

mod attempts;
mod deaths;
mod forms;
mod further;
mod inward;
mod numbers;
mod outward;
mod pointers;
mod reports;
mod sideways;

use std::cell::OnceCell;
use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;

use mountwarden_client::{Client, Detach};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use self::attempts::Attempt;
use self::forms::Pinned;
use super::confinement::{items, only, tables};
use crate::daemon::{Daemon, wait_for};
use crate::kernel::{children, unchanged};
use crate::puppet::{Outcome, Puppet};
use crate::sandbox::{POLICY, Sandbox};
use crate::symbols::Symbols;
use crate::wire::Wire;
use crate::{Case, Skip};

/// Who is owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Gate,
    Session,
    Warden,
    Mounter,
    Locker,
    /// A process of the helper's user that nothing confines: what it can do shows that
    /// it is the confinement that stops the others.
    Bystander,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Session => "session",
            Self::Warden => "warden",
            Self::Mounter => "mounter",
            Self::Locker => "locker",
            Self::Bystander => "bystander",
        }
    }
}

type Theme = fn(&mut Puppet, &Scene<'_>, Role) -> Vec<Attempt>;

/// What a process without confinement may try too: to signal the roles would end them.
const THEMES: [Theme; 8] = [
    sideways::attack_27_touches_no_other_role,
    outward::attack_28_opens_no_path,
    outward::attack_28_makes_no_socket,
    outward::attack_28_starts_nothing,
    outward::attack_28_enters_no_namespace,
    inward::attack_28_meets_no_more_of_the_kernel,
    inward::attack_28_regains_no_right,
    inward::attack_28_maps_nothing,
];

fn as_case(case: Case) -> Case {
    case
}

/// `role::name: what runs it` for each case; `*` for every role.
macro_rules! list {
    ($($role:ident::$name:ident: $case:expr,)+ $(*::$each:ident: $in_role:expr,)+) => {
        vec![
            $((concat!("escape::", stringify!($role), "::", stringify!($name)), as_case($case)),)+
            $(
                (concat!("escape::gate::", stringify!($each)), as_case(as_case(|s| $in_role(s, Role::Gate)))),
                (concat!("escape::session::", stringify!($each)), as_case(as_case(|s| $in_role(s, Role::Session)))),
                (concat!("escape::warden::", stringify!($each)), as_case(as_case(|s| $in_role(s, Role::Warden)))),
                (concat!("escape::mounter::", stringify!($each)), as_case(as_case(|s| $in_role(s, Role::Mounter)))),
                (concat!("escape::locker::", stringify!($each)), as_case(as_case(|s| $in_role(s, Role::Locker)))),
            )+
        ]
    };
}

pub(super) fn all() -> Vec<(&'static str, Case)> {
    list! {
        bystander::attack_27_reaches_no_role: further::attack_27_reaches_no_role,
        bystander::is_stopped_by_nothing: further::nothing_stops_a_bystander,
        puppet::goes_on_when_released: further::a_released_role_goes_on,
        gate::attack_28_another_domain_only_narrows: further::attack_28_another_domain_only_narrows,
        gate::attack_28_an_unopened_path_leads_nowhere:
            |s| further::attack_28_an_unopened_path_leads_nowhere(s, Role::Gate),
        session::attack_28_an_unopened_path_leads_nowhere:
            |s| further::attack_28_an_unopened_path_leads_nowhere(s, Role::Session),
        gate::attack_33_writes_no_line_of_anothers:
            |s| reports::attack_33_writes_no_line_of_anothers(s, Role::Gate),
        session::attack_33_writes_no_line_of_anothers:
            |s| reports::attack_33_writes_no_line_of_anothers(s, Role::Session),
        gate::is_heard_to_the_end: reports::what_the_gate_said_last,
        session::attack_34_a_flood_of_messages: reports::attack_34_a_flood_of_messages,
        session::attack_26_hands_its_client_nothing:
            |s| every_attempt(s, Role::Session, reports::attack_26_hands_its_client_nothing),
        session::attack_28_the_kernel_names_the_call: deaths::attack_28_the_kernel_names_the_call,
        mounter::could_still_use_the_name_buffer: further::could_still_use_the_name_buffer,
        warden::attack_29_passes_no_other_pointer:
            |s| no_other_pointer(s, Role::Warden),
        mounter::attack_29_passes_no_other_pointer:
            |s| no_other_pointer(s, Role::Mounter),
        *::attack_27_touches_no_other_role:
            |s, role| every_attempt(s, role, sideways::attack_27_touches_no_other_role),
        *::attack_27_signals_no_other_role: no_signal,
        *::attack_28_opens_no_path: |s, role| every_attempt(s, role, outward::attack_28_opens_no_path),
        *::attack_28_makes_no_socket: |s, role| every_attempt(s, role, outward::attack_28_makes_no_socket),
        *::attack_28_starts_nothing: |s, role| every_attempt(s, role, outward::attack_28_starts_nothing),
        *::attack_28_enters_no_namespace:
            |s, role| every_attempt(s, role, outward::attack_28_enters_no_namespace),
        *::attack_28_meets_no_more_of_the_kernel:
            |s, role| every_attempt(s, role, inward::attack_28_meets_no_more_of_the_kernel),
        *::attack_28_regains_no_right:
            |s, role| every_attempt(s, role, inward::attack_28_regains_no_right),
        *::attack_28_maps_nothing: nothing_mapped,
        *::attack_28_keeps_to_its_table: numbers::attack_28_keeps_to_its_table,
        *::attack_29_passes_no_other_form: forms::attack_29_passes_no_other_form,
        *::attack_28_has_no_other_entry: further::attack_28_has_no_other_entry,
        *::attack_28_a_forbidden_call_is_reported: deaths::attack_28_a_forbidden_call_is_reported,
        *::a_panic_is_reported: deaths::by_a_panic,
    }
}

/// A helper with one connection that nobody attacks.
struct Scene<'a> {
    sandbox: &'a Sandbox,
    daemon: Daemon,
    kept: Client,
    /// Gate, session, warden and mounter; the two of a connection are the kept one's.
    processes: [Pid; 4],
    locker: Pid,
    /// The Landlock ABI in force.
    abi: u32,
    symbols: OnceCell<Symbols>,
}

const FILESYSTEMS: &str = r#"
[[grant]]
name = "file systems"
users = [@UID@]
target = ["@DIR@/served"]
  [grant.bind]
  source = ["@DIR@/src"]
  idmap = { uids = ["1:peer:1"], gids = ["1:peer:1"] }
  [grant.block]
  device = ["/dev/mountwarden-none"]
  filesystems = ["ext4"]
  options = ["discard"]
  [grant.fuse]
  subtypes = ["none"]
  device = ["/dev/mountwarden-none"]
  [grant.overlay]
  layer = ["@DIR@/src"]
  [grant.image]
  file = ["@DIR@/src"]
  filesystems = ["erofs"]
  loop_devices = { first = 444, count = 1 }
  [grant.network]
  source = ["none"]
  filesystems = ["nfs4"]
"#;

impl<'a> Scene<'a> {
    fn start(sandbox: &'a Sandbox) -> Self {
        // Only Landlock is between the helper's user and these.
        for (name, mode) in [
            ("src", 0o777),
            ("src/data", 0o777),
            ("src/data/file", 0o666),
        ] {
            set_permissions(sandbox.path(name), Permissions::from_mode(mode)).unwrap();
        }
        // Every kind, so that a mounter has every form.
        let policy = POLICY.replace("target = ", "detached = true\ntarget = ");
        sandbox.policy(&format!("{policy}{FILESYSTEMS}"));
        let daemon = Daemon::start(sandbox);
        let mut kept = daemon.client();
        let abi = kept.status().unwrap().roles[0].landlock.abi;
        let processes =
            ["mw-gate", "mw-session", "mw-warden", "mw-mounter"].map(|name| only(&daemon, name));
        let locker = only(&daemon, "mw-locker");
        Self {
            sandbox,
            daemon,
            kept,
            processes,
            locker,
            abi,
            symbols: OnceCell::new(),
        }
    }

    fn symbols(&self) -> &Symbols {
        self.symbols
            .get_or_init(|| Symbols::read(&self.sandbox.helper()))
    }

    /// What the program says of a role.
    fn table(&self, role: Role) -> Value {
        let tables = tables(self.sandbox);
        let mut roles = items(&tables["roles"]).iter();
        let found = roles.find(|table| table["role"] == role.name());
        found.expect("its table").clone()
    }

    /// A path in the sandbox.
    fn text(&self, name: &str) -> String {
        self.sandbox.path(name).to_str().unwrap().to_owned()
    }

    /// A new connection: what speaks over it, its session and its mounter.
    fn connect(&self) -> (Wire, Pid, Pid) {
        self.wait_for_ends();
        let wire = Wire::open(&self.daemon.socket);
        let [gate, _, warden, _] = self.processes;
        (wire, self.new_child(gate), self.new_child(warden))
    }

    /// The one child that the connection to attack gave a parent. A look at
    /// a process's children may miss one while others end (`proc_pid_task(5)`).
    fn new_child(&self, parent: Pid) -> Pid {
        wait_for("one new process", || {
            let mut new = children(parent);
            new.retain(|pid| !self.processes.contains(pid) && *pid != self.locker);
            (new.len() == 1).then(|| new[0])
        })
    }

    /// Waits until no connection but the kept one is left.
    fn wait_for_ends(&self) {
        let [gate, session, warden, mounter] = self.processes;
        wait_for("the other connections end", || {
            (children(gate) == [session] && children(warden) == [self.locker, gate, mounter])
                .then_some(())
        });
    }

    /// The connection that nobody attacked is served, and so is a new one.
    fn others_are_served(&mut self) {
        assert_eq!(self.kept.list().unwrap(), []);
        assert_eq!(self.daemon.client().list().unwrap(), []);
        let detach = Detach::new(self.sandbox.path("src/data")).unwrap();
        self.daemon.client().detach(detach).unwrap();
        self.wait_for_ends();
    }
}

/// Where victims come from.
enum Victims {
    Forks(Box<Puppet>),
    Connections(Role),
}

impl Victims {
    fn of(scene: &Scene<'_>, role: Role) -> Self {
        match role {
            Role::Gate => Self::Forks(Box::new(Puppet::seize(scene.processes[0]))),
            Role::Warden => Self::Forks(Box::new(Puppet::seize(scene.processes[2]))),
            Role::Locker => Self::Forks(Box::new(Puppet::seize(scene.locker))),
            Role::Session | Role::Mounter | Role::Bystander => Self::Connections(role),
        }
    }

    fn next(&mut self, scene: &Scene<'_>) -> (Puppet, Option<Wire>) {
        match self {
            Self::Forks(parent) => (parent.fork(), None),
            Self::Connections(role) => {
                let (wire, session, mounter) = scene.connect();
                let pid = if *role == Role::Session {
                    session
                } else {
                    mounter
                };
                (Puppet::seize(pid), Some(wire))
            }
        }
    }

    /// Lets what is left go on as before.
    fn release(self) {
        if let Self::Forks(parent) = self {
            parent.release();
        }
    }
}

fn every_attempt(sandbox: &Sandbox, role: Role, theme: Theme) -> Result<(), Skip> {
    attack(Scene::start(sandbox), role, theme);
    Ok(())
}

fn no_other_pointer(sandbox: &Sandbox, role: Role) -> Result<(), Skip> {
    Pinned::are_named()?;
    every_attempt(sandbox, role, pointers::attack_29_passes_no_other_pointer)
}

fn nothing_mapped(sandbox: &Sandbox, role: Role) -> Result<(), Skip> {
    if let Role::Warden | Role::Mounter | Role::Locker = role {
        Pinned::are_named()?;
    }
    every_attempt(sandbox, role, inward::attack_28_maps_nothing)
}

fn no_signal(sandbox: &Sandbox, role: Role) -> Result<(), Skip> {
    let scene = Scene::start(sandbox);
    if scene.abi < 6 {
        let why = "Landlock denies signals from ABI 6 (Linux 6.12) on";
        return Err(Skip(why.to_owned()));
    }
    attack(scene, role, sideways::attack_27_signals_no_other_role);
    Ok(())
}

/// Makes every attempt of a theme in a role, each of which must end as it says; the mount
/// table stays as it is, and the others are served.
fn attack(mut scene: Scene<'_>, role: Role, theme: Theme) {
    let killed = unchanged(|| {
        let mut victims = Victims::of(&scene, role);
        let killed = make_attempts(&mut victims, &scene, role, theme);
        victims.release();
        killed
    });
    scene.others_are_served();
    // A child that gate or warden never knew of is nobody's to report.
    for pid in killed
        .into_iter()
        .filter(|_| matches!(role, Role::Session | Role::Mounter))
    {
        deaths::reported(&scene, role, pid, Signal::SIGSYS);
    }
}

/// Gives the processes that died.
fn make_attempts(victims: &mut Victims, scene: &Scene<'_>, role: Role, theme: Theme) -> Vec<Pid> {
    let mut dead = Vec::new();
    let mut next = 0;
    loop {
        let (mut puppet, _wire) = victims.next(scene);
        let attempts = theme(&mut puppet, scene, role);
        loop {
            let Some(attempt) = attempts.get(next) else {
                return dead;
            };
            next += 1;
            let outcome = puppet.syscall(attempt.number, &attempt.arguments);
            assert!(
                attempt.expected.is(outcome),
                "{}: {outcome:?} where {:?} was expected",
                attempt.what,
                attempt.expected
            );
            if let Outcome::Killed(_) = outcome {
                dead.push(puppet.pid());
                break;
            }
        }
    }
}
