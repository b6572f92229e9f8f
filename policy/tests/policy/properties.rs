//! Properties of every policy and every request, against an oracle that is
//! written another way: roots are filled in by text replacement and compared
//! component by component.

use std::fmt::Write as _;
use std::path::{Component, Path};

use mountwarden_policy::{
    IdRange, MountPermit, Peer, Permit, PermittedIdmap, PermittedKind, Policy, Verdict,
};
use mountwarden_protocol::{
    AbsPath, DenyReason, Detach, Kind, Lift, Mount, MountAttributes, MountOptions, Move, Operation,
    Passed, Propagation, Remount, TmpfsMode, Unmount,
};
use proptest::prelude::*;

use crate::support::{Names, inodes, path, size};

/// A grant as the oracle knows it.
#[derive(Debug, Clone)]
struct Spec {
    users: Vec<u32>,
    groups: Vec<u32>,
    targets: Vec<String>,
    force: Vec<&'static str>,
    sources: Option<(Vec<String>, bool, bool)>,
    tmpfs: Option<(u64, u64)>,
    remount: bool,
    detached: bool,
    moves: bool,
    propagation: Vec<&'static str>,
    passed: PassedSpec,
}

/// What a grant says of passed locations and of owners.
#[derive(Debug, Clone, Copy)]
struct PassedSpec {
    target: bool,
    source: bool,
    idmap: bool,
    owners: [bool; 2],
}

const IDMAP: &str = "idmap = { uids = ['0:peer:1', '1:100000:9'], gids = ['0:peer:1'] }\n";

fn toml(specs: &[Spec]) -> String {
    let mut text = "version = 1\n".to_owned();
    for (index, spec) in specs.iter().enumerate() {
        let Spec {
            users,
            groups,
            targets,
            force,
            remount,
            detached,
            moves,
            propagation,
            passed,
            ..
        } = spec;
        write!(
            text,
            "[[grant]]\nname = 'g{index}'\nusers = {users:?}\ngroups = {groups:?}\n\
             target = {targets:?}\nforce = {force:?}\nremount = {remount}\ndetached = {detached}\n\
             move = {moves}\n\
             propagation = {propagation:?}\n\
             passed_target = {}\n{}",
            passed.target,
            owner("target", passed.owners[0])
        )
        .unwrap();
        if let Some((sources, read_only, recursive)) = &spec.sources {
            write!(
                text,
                "[grant.bind]\nsource = {sources:?}\nread_only = {read_only}\n\
                 recursive = {recursive}\npassed_source = {}\n{}{}",
                passed.source,
                owner("source", passed.owners[1]),
                if passed.idmap { IDMAP } else { "" }
            )
            .unwrap();
        }
        if let Some((max_size, max_inodes)) = spec.tmpfs {
            write!(
                text,
                "[grant.tmpfs]\nmax_size = {max_size}\nmax_inodes = {max_inodes}\n"
            )
            .unwrap();
        }
    }
    text
}

fn owner(location: &str, asked: bool) -> String {
    if asked {
        format!("{location}_owner = 'peer'\n")
    } else {
        String::new()
    }
}

/// Components that are easily taken for one another.
fn component() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "a", "ab", "b", "bc", "1", "11", "2", "etc", "proc", "vm-1", "\n",
    ])
    .prop_map(str::to_owned)
}

fn any_path(least: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(component(), least..5).prop_map(|parts| format!("/{}", parts.join("/")))
}

fn root() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => component().prop_filter("a TOML text", |c| c != "\n"),
        1 => Just("{uid}".to_owned()),
        1 => Just("vm-{uid}".to_owned()),
    ];
    prop::collection::vec(part, 1..4).prop_map(|parts| format!("/{}", parts.join("/")))
}

fn spec() -> impl Strategy<Value = Spec> {
    let flags = vec!["nosuid", "nodev", "noexec", "nosymfollow", "ro"];
    let bind = (
        prop::collection::vec(root(), 1..3),
        any::<bool>(),
        any::<bool>(),
    );
    (
        prop::collection::vec(1..4_u32, 0..3),
        prop::collection::vec(1..4_u32, 0..2),
        prop::collection::vec(root(), 1..3),
        prop::sample::subsequence(flags, 0..=5),
        prop::option::of(bind),
        prop::option::of((1..5_u64, 1..5_u64)),
        any::<bool>(),
        prop::sample::subsequence(vec!["slave", "shared"], 0..=2),
        any::<[bool; 6]>(),
    )
        .prop_filter(
            "a subject and a kind",
            |(users, groups, _, _, bind, tmpfs, ..)| {
                !(users.is_empty() && groups.is_empty()) && (bind.is_some() || tmpfs.is_some())
            },
        )
        .prop_map(
            |(users, groups, targets, force, sources, tmpfs, remount, propagation, flags)| Spec {
                detached: flags[4] && sources.is_some() && !force.contains(&"nosymfollow"),
                moves: flags[5],
                users,
                groups,
                targets,
                force,
                sources,
                tmpfs,
                remount,
                propagation,
                passed: PassedSpec {
                    target: flags[0],
                    source: flags[1],
                    idmap: flags[5],
                    owners: [flags[2], flags[3]],
                },
            },
        )
}

fn peers() -> impl Strategy<Value = Peer> {
    (1..5_u32, 1..5_u32, prop::collection::vec(1..5_u32, 0..3))
        .prop_map(|(uid, gid, groups)| Peer { uid, gid, groups })
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (any_path(0), any::<bool>()).prop_map(|(source, recursive)| Kind::Bind {
            source: path(&source),
            recursive,
        }),
        (
            prop::option::of(1..7_u64),
            prop::option::of(prop_oneof![1..7_u64, Just(i64::MAX.unsigned_abs())]),
            prop::option::of(0..=0o1777_u32),
        )
            .prop_map(|(bytes, count, mode)| Kind::Tmpfs {
                size: bytes.map(size),
                inodes: count.map(inodes),
                mode: mode.and_then(|mode| TmpfsMode::try_from(mode).ok()),
            }),
    ]
}

fn operations() -> impl Strategy<Value = Operation> {
    let options = (0..=31_u32).prop_map(MountOptions::from_bits_truncate);
    let all = [
        Propagation::Private,
        Propagation::Slave,
        Propagation::Shared,
    ];
    let propagation =
        prop_oneof![2 => Just(Propagation::Private), 1 => prop::sample::select(all.to_vec())];
    let passed = prop_oneof![2 => Just(0), 1 => 0..8_u32].prop_map(Passed::from_bits_truncate);
    prop_oneof![
        3 => (kinds(), any_path(0), options, propagation, passed, any::<bool>()).prop_map(
            |(kind, target, options, propagation, passed, lease)| Operation::Mount(Mount {
                kind,
                target: path(&target),
                options,
                propagation,
                passed,
                lease,
            })
        ),
        1 => (any_path(0), any::<bool>()).prop_map(|(target, passed)| Operation::Unmount(Unmount {
            target: path(&target),
            lazy: false,
            id: None,
            passed,
        })),
        1 => (any_path(0), attributes(), prop::option::of((attributes(), kinds()))).prop_map(
            |(target, set, lift)| Operation::Remount(Remount {
                target: path(&target),
                set,
                lift: lift.map(|(attributes, kind)| Lift { attributes, kind }),
                id: None,
            })
        ),
        1 => (any_path(0), any::<[bool; 2]>(), (0..=31_u32)).prop_map(
            |(source, [recursive, idmap], options)| Operation::Detach(Detach {
                source: path(&source),
                recursive,
                options: MountOptions::from_bits_truncate(options),
                idmap,
            })
        ),
        1 => (any_path(0), any_path(0)).prop_map(|(from, to)| Operation::Move(Move {
            from: path(&from),
            to: path(&to),
            id: None,
        })),
    ]
}

fn attributes() -> impl Strategy<Value = MountAttributes> {
    (0..=31_u32).prop_map(MountAttributes::from_bits_truncate)
}

/// A grant of the policy that an operation aims at, and by how much it misses.
#[derive(Debug, Clone)]
struct Aim {
    grant: prop::sample::Index,
    root: prop::sample::Index,
    beyond_target: &'static str,
    beyond_source: &'static str,
}

fn aims() -> impl Strategy<Value = Option<Aim>> {
    let beyond = || prop::sample::select(vec!["", "/x", "/x/y", "x", "1", "/proc"]);
    let aim = (
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        beyond(),
        beyond(),
    );
    prop::option::weighted(
        0.8,
        aim.prop_map(|(grant, root, beyond_target, beyond_source)| Aim {
            grant,
            root,
            beyond_target,
            beyond_source,
        }),
    )
}

/// The operation with its paths at or near a grant's roots, so that what is
/// allowed, and what is only just refused, comes up often.
fn aimed(specs: &[Spec], peer: &Peer, operation: &Operation, aim: Option<Aim>) -> Operation {
    let mut operation = operation.clone();
    let Some(aim) = aim else { return operation };
    let spec = aim.grant.get(specs);
    let near = |roots: &[String], beyond| {
        let root = aim.root.get(roots).replace("{uid}", &peer.uid.to_string());
        path(&format!("{root}{beyond}"))
    };
    match &mut operation {
        Operation::Mount(mount) => {
            mount.target = near(&spec.targets, aim.beyond_target);
            if let (Kind::Bind { source, .. }, Some((roots, ..))) = (&mut mount.kind, &spec.sources)
            {
                *source = near(roots, aim.beyond_source);
            }
        }
        Operation::Unmount(unmount) => unmount.target = near(&spec.targets, aim.beyond_target),
        Operation::Remount(remount) => {
            remount.target = near(&spec.targets, aim.beyond_target);
            let kind = remount.lift.as_mut().map(|lift| &mut lift.kind);
            if let (Some(Kind::Bind { source, .. }), Some((roots, ..))) = (kind, &spec.sources) {
                *source = near(roots, aim.beyond_source);
            }
        }
        Operation::Detach(detach) => {
            if let Some((roots, ..)) = &spec.sources {
                detach.source = near(roots, aim.beyond_source);
            }
        }
        Operation::Move(moved) => {
            moved.from = near(&spec.targets, aim.beyond_source);
            moved.to = near(&spec.targets, aim.beyond_target);
        }
    }
    operation
}

/// The oracle: the number of the grant that allows the operation, or why none does.
fn expected(specs: &[Spec], peer: &Peer, operation: &Operation) -> Result<usize, DenyReason> {
    if !specs.iter().any(|spec| is_for(spec, peer)) {
        return Err(DenyReason::NoGrant);
    }
    let system = ["proc", "sys"].map(|name| Some(Component::Normal(name.as_ref())));
    let protected = |path: &AbsPath| {
        let path = path.as_path();
        system.contains(&path.components().nth(1)) || ["/", "/etc"].map(Path::new).contains(&path)
    };
    let shares =
        matches!(operation, Operation::Mount(mount) if mount.propagation == Propagation::Shared);
    let moves = matches!(operation, Operation::Move(_));
    if operation.target().is_some_and(protected)
        || ((shares || moves) && operation.source().is_some_and(protected))
    {
        return Err(DenyReason::TargetProtected);
    }
    let mut furthest = 0;
    for (index, spec) in specs.iter().enumerate() {
        if !is_for(spec, peer) {
            continue;
        }
        let checks = checks(spec, peer, operation);
        match checks.iter().position(|passes| !passes) {
            None => return Ok(index),
            Some(failing) => furthest = furthest.max(failing),
        }
    }
    let first = match operation {
        Operation::Detach(_) => DenyReason::DetachedNotGranted,
        _ => DenyReason::TargetNotGranted,
    };
    let second = if moves {
        DenyReason::MoveNotGranted
    } else {
        DenyReason::RemountNotGranted
    };
    Err([
        first,
        second,
        DenyReason::KindNotGranted,
        DenyReason::SourceNotGranted,
        DenyReason::RecursiveNotGranted,
        DenyReason::SuidNotGranted,
        DenyReason::DevNotGranted,
        DenyReason::AttributeForced,
        DenyReason::PropagationNotGranted,
        DenyReason::SizeAboveMaximum,
        DenyReason::InodesAboveMaximum,
        DenyReason::PassedNotGranted,
        DenyReason::PassedNotGranted,
        DenyReason::IdmapNotGranted,
    ][furthest])
}

fn is_for(spec: &Spec, peer: &Peer) -> bool {
    let mut groups = peer.groups.clone();
    groups.push(peer.gid);
    spec.users.contains(&peer.uid) || spec.groups.iter().any(|group| groups.contains(group))
}

/// Whether each check passes, in the order in which they are made.
fn checks(spec: &Spec, peer: &Peer, operation: &Operation) -> [bool; 14] {
    let mut checks = [true; 14];
    let reaches = |target| beneath(target, &spec.targets, peer, 1);
    checks[0] = operation.target().is_none_or(reaches);
    match operation {
        Operation::Mount(mount) => {
            let keeps =
                |option, word| !mount.options.contains(option) || !spec.force.contains(&word);
            checks[5] = keeps(MountOptions::SUID, "nosuid");
            checks[6] = keeps(MountOptions::DEV, "nodev");
            let asked = mount.propagation;
            checks[8] = asked == Propagation::Private || spec.propagation.contains(&asked.name());
            check_kind(spec, peer, &mount.kind, &mut checks);
            let is_bind = matches!(mount.kind, Kind::Bind { .. });
            checks[11] = !mount.passed.contains(Passed::TARGET) || spec.passed.target;
            checks[12] = !mount.passed.contains(Passed::SOURCE) || (is_bind && spec.passed.source);
            checks[13] = !mount.passed.contains(Passed::ID_MAP) || (is_bind && spec.passed.idmap);
        }
        Operation::Unmount(unmount) => checks[11] = !unmount.passed || spec.passed.target,
        Operation::Remount(remount) => {
            checks[1] = spec.remount;
            if let Some(lift) = &remount.lift {
                let names = lift.attributes.names();
                let is_bind = matches!(lift.kind, Kind::Bind { .. });
                let read_only = is_bind && spec.sources.as_ref().is_some_and(|(_, ro, _)| *ro);
                let forced = |name| spec.force.contains(name) || (read_only && *name == "ro");
                checks[7] = !names.iter().any(forced);
                check_kind(spec, peer, &lift.kind, &mut checks);
            }
        }
        Operation::Detach(detach) => {
            let keeps =
                |option, word| !detach.options.contains(option) || !spec.force.contains(&word);
            checks[0] = spec.detached;
            checks[13] = !detach.idmap || spec.passed.idmap;
            checks[5] = keeps(MountOptions::SUID, "nosuid");
            checks[6] = keeps(MountOptions::DEV, "nodev");
            let kind = Kind::Bind {
                source: detach.source.clone(),
                recursive: detach.recursive,
            };
            check_kind(spec, peer, &kind, &mut checks);
        }
        Operation::Move(moved) => {
            checks[1] = spec.moves && beneath(&moved.from, &spec.targets, peer, 1);
        }
    }
    checks
}

fn check_kind(spec: &Spec, peer: &Peer, kind: &Kind, checks: &mut [bool; 14]) {
    match (kind, &spec.sources, spec.tmpfs) {
        (Kind::Bind { source, recursive }, Some((roots, _, may_recurse)), _) => {
            checks[3] = beneath(source, roots, peer, 0);
            checks[4] = !recursive || *may_recurse;
        }
        (Kind::Tmpfs { size, inodes, .. }, _, Some((max_size, max_inodes))) => {
            checks[9] = size.is_none_or(|size| size.get() <= max_size);
            checks[10] = inodes.is_none_or(|inodes| inodes.get() <= max_inodes);
        }
        _ => checks[2] = false,
    }
}

/// Whether `path` lies at least `depth` components beneath one of the roots.
fn beneath(path: &AbsPath, roots: &[String], peer: &Peer, depth: usize) -> bool {
    roots.iter().any(|root| {
        let root = root.replace("{uid}", &peer.uid.to_string());
        let mut rest = path.as_path().components();
        let inside = Path::new(&root)
            .components()
            .all(|part| rest.next() == Some(part));
        inside && rest.count() >= depth
    })
}

fn parse(specs: &[Spec]) -> Policy {
    Policy::parse(Path::new("p"), &toml(specs), &Names).unwrap()
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(4000))]

    #[test]
    fn every_verdict_is_the_oracles(
        specs in prop::collection::vec(spec(), 1..4),
        peer in peers(),
        operation in operations(),
        aim in aims(),
    ) {
        let policy = parse(&specs);
        let operation = aimed(&specs, &peer, &operation, aim);
        let verdict = match policy.judge(&peer, &operation) {
            Verdict::Allowed(permit) => Ok(permit.grant().to_owned()),
            Verdict::Denied(denial) => Err(denial.reason),
        };
        let expected = expected(&specs, &peer, &operation).map(|index| format!("g{index}"));
        prop_assert_eq!(verdict, expected);
    }

    #[test]
    fn who_may_unmount_may_probe_and_nobody_else(
        specs in prop::collection::vec(spec(), 1..4),
        peer in peers(),
        operation in operations(),
        aim in aims(),
    ) {
        let policy = parse(&specs);
        let target = aimed(&specs, &peer, &operation, aim).path().clone();
        let unmount = Operation::Unmount(Unmount { target: target.clone(), lazy: false, id: None, passed: false });
        let verdict = match policy.judge(&peer, &unmount) {
            Verdict::Allowed(permit) => Ok(permit.grant()),
            Verdict::Denied(denial) => Err((denial.reason, denial.path)),
        };
        let probe = policy.judge_probe(&peer, &target);
        prop_assert_eq!(probe.map_err(|denial| (denial.reason, denial.path)), verdict);
    }

    #[test]
    fn nothing_outside_the_peers_roots_is_ever_allowed(
        specs in prop::collection::vec(spec(), 1..4),
        peer in peers(),
        operation in operations(),
        aim in aims(),
    ) {
        let policy = parse(&specs);
        let operation = aimed(&specs, &peer, &operation, aim);
        let inside = specs
            .iter()
            .filter(|spec| is_for(spec, &peer))
            .any(|spec| match (operation.target(), &spec.sources) {
                (Some(target), _) => beneath(target, &spec.targets, &peer, 1),
                (None, Some((roots, ..))) => beneath(operation.path(), roots, &peer, 0),
                (None, None) => false,
            });
        let allowed = matches!(policy.judge(&peer, &operation), Verdict::Allowed(_));
        prop_assert!(inside || !allowed);
    }

    #[test]
    fn an_allowed_mount_is_what_was_asked_with_every_restriction(
        spec in spec(),
        peer in peers(),
        operation in operations(),
        aim in aims(),
    ) {
        let specs = std::slice::from_ref(&spec);
        let peer = Peer { groups: spec.groups.clone(), ..peer };
        let operation = aimed(specs, &peer, &operation, aim);
        let policy = parse(specs);
        if let (Verdict::Allowed(Permit::Mount(permit)), Operation::Mount(mount)) =
            (policy.judge(&peer, &operation), &operation)
        {
            check_permit(&spec, &peer, mount, &permit)?;
        }
    }

    #[test]
    fn a_refusal_is_one_line_that_names_its_path(
        specs in prop::collection::vec(spec(), 0..3),
        peer in peers(),
        operation in operations(),
    ) {
        if let Verdict::Denied(denial) = parse(&specs).judge(&peer, &operation) {
            prop_assert!(!denial.message.chars().any(char::is_control), "{:?}", denial.message);
            prop_assert!(denial.message.contains(&denial.path.to_string()));
            let known = [operation.target(), operation.source()];
            prop_assert!(known.contains(&Some(&denial.path)));
        }
    }

    #[test]
    fn a_longer_name_is_never_beneath_a_shorter_one(
        root in "(/[a-z1]{1,3}){2,4}",
        more in "[a-z{}. -]{1,8}",
    ) {
        let spec = Spec {
            users: vec![1],
            groups: vec![],
            targets: vec![root.clone()],
            force: vec![],
            sources: Some((vec![root.clone()], false, true)),
            tmpfs: Some((1, 1)),
            remount: true,
            detached: true,
            moves: true,
            propagation: vec![],
            passed: PassedSpec {
                target: true,
                source: true,
                idmap: true,
                owners: [false; 2],
            },
        };
        let policy = parse(&[spec]);
        let peer = Peer { uid: 1, gid: 1, groups: vec![] };
        for sibling in [format!("{root}{more}"), format!("{root}{more}/x")] {
            let operation = Operation::Unmount(Unmount {
                target: path(&sibling),
                lazy: false,
                id: None,
                passed: false,
            });
            prop_assert!(policy.judge(&peer, &operation).grant().is_none());
            let mount = Operation::Mount(Mount {
                kind: Kind::Bind { source: path(&sibling), recursive: false },
                target: path(&format!("{root}/x")),
                options: MountOptions::empty(),
                propagation: Propagation::Private,
                passed: Passed::empty(),
                lease: false,
            });
            prop_assert!(policy.judge(&peer, &mount).grant().is_none());
        }
    }

    #[test]
    fn reading_and_judging_never_panics(
        specs in prop::collection::vec(spec(), 0..3),
        at in any::<prop::sample::Index>(),
        length in 0..12_usize,
        noise in "\\PC{0,6}|[\\[\\]{}=\"'\n.,0-9#\\x00-\\x1f]{0,6}",
        peer in peers(),
        operation in operations(),
    ) {
        let mut characters: Vec<char> = toml(&specs).chars().collect();
        let start = at.index(characters.len());
        let end = characters.len().min(start.saturating_add(length));
        characters.splice(start..end, noise.chars());
        let text: String = characters.into_iter().collect();
        match Policy::parse(Path::new("p"), &text, &Names) {
            Ok(policy) => {
                let _ = policy.judge(&peer, &operation).grant();
                let _ = (policy.lint(), policy.static_roots(), policy.places(&peer));
            }
            Err(error) => {
                let lines = text.split('\n').collect::<Vec<_>>();
                let line = lines.get(error.line.saturating_sub(1));
                prop_assert!(line.is_some_and(|line| error.column >= 1
                    && error.column <= line.chars().count().saturating_add(1)), "{error}");
                prop_assert!(!error.to_string().chars().any(char::is_control), "{error:?}");
            }
        }
    }
}

/// Compares a permit with what was asked and what the grant restricts.
fn check_permit(
    spec: &Spec,
    peer: &Peer,
    mount: &Mount,
    permit: &MountPermit<'_>,
) -> Result<(), TestCaseError> {
    prop_assert_eq!(&permit.target, &mount.target);
    prop_assert_eq!(permit.propagation, mount.propagation);
    prop_assert_eq!(permit.passed, mount.passed);
    let [target_owner, source_owner] = spec.passed.owners.map(|asked| asked.then_some(peer.uid));
    prop_assert_eq!(permit.target_owner, target_owner);
    let range = |inside, outside, count| IdRange {
        inside,
        outside,
        count,
    };
    let idmap = PermittedIdmap {
        owner: peer.uid,
        uids: vec![range(0, peer.uid, 1), range(1, 100_000, 9)],
        gids: vec![range(0, peer.gid, 1)],
    };
    let mapped = mount.passed.contains(Passed::ID_MAP);
    prop_assert_eq!(&permit.idmap, &mapped.then_some(idmap));
    let names = permit.attributes.names();
    for flag in &spec.force {
        prop_assert!(names.contains(flag), "{flag} is forced: {names:?}");
    }
    let read_only = spec.sources.as_ref().is_some_and(|bind| bind.1);
    let is_bind = matches!(mount.kind, Kind::Bind { .. });
    for (asked, word) in [
        (
            mount.options.contains(MountOptions::READ_ONLY) || (is_bind && read_only),
            "ro",
        ),
        (mount.options.contains(MountOptions::NO_EXEC), "noexec"),
        (
            mount.options.contains(MountOptions::NO_SYMFOLLOW),
            "nosymfollow",
        ),
        (!mount.options.contains(MountOptions::SUID), "nosuid"),
        (!mount.options.contains(MountOptions::DEV), "nodev"),
    ] {
        let wanted = asked || spec.force.contains(&word);
        prop_assert_eq!(names.contains(&word), wanted, "{}", word);
    }
    prop_assert!(MountAttributes::all().contains(permit.attributes));
    match (&permit.kind, &mount.kind) {
        (
            PermittedKind::Bind {
                source,
                recursive,
                owner,
            },
            Kind::Bind {
                source: asked,
                recursive: asked_recursive,
            },
        ) => {
            prop_assert_eq!(source, asked);
            prop_assert_eq!(recursive, asked_recursive);
            prop_assert_eq!(*owner, source_owner);
        }
        (
            PermittedKind::Tmpfs {
                size,
                inodes,
                mode,
                uid,
                gid,
            },
            Kind::Tmpfs {
                size: asked_size,
                inodes: asked_inodes,
                mode: asked_mode,
            },
        ) => {
            let (max_size, max_inodes) = spec.tmpfs.unwrap_or_default();
            prop_assert!(size.get() <= max_size && inodes.get() <= max_inodes);
            prop_assert_eq!(size.get(), asked_size.map_or(max_size, u64::from));
            prop_assert_eq!(inodes.get(), asked_inodes.map_or(max_inodes, u64::from));
            prop_assert_eq!(*mode, asked_mode.unwrap_or(TmpfsMode::OWNER_ONLY));
            prop_assert_eq!((*uid, *gid), (peer.uid, peer.gid));
        }
        kinds => prop_assert!(false, "another kind: {kinds:?}"),
    }
    Ok(())
}
