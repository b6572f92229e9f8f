//! Texts that are no policy: each gives the place and says what to write.

use std::path::Path;

use mountwarden_policy::{Policy, PolicyError};

use crate::support::Names;

fn error(text: &str) -> PolicyError {
    match Policy::parse(Path::new("/etc/p.toml"), text, &Names) {
        Err(error) => error,
        Ok(policy) => panic!("{text:?} was read: {policy:?}"),
    }
}

/// Checks texts with their line, column and message.
fn check(cases: &[(&str, usize, usize, &str)]) {
    for (text, line, column, message) in cases {
        let error = error(text);
        assert_eq!(
            (error.line, error.column, error.message.as_str()),
            (*line, *column, *message),
            "{text}"
        );
    }
}

#[test]
fn an_error_prints_its_file_line_and_column() {
    assert_eq!(
        error("version = 2").to_string(),
        "/etc/p.toml:1:11: version must be 1, the only one there is"
    );
}

#[test]
fn what_is_not_toml_is_refused_where_it_stops_being() {
    check(&[
        ("version = 1\nversion = 1", 2, 1, "duplicate key"),
        (
            "# é\nx = \"é\" = 1",
            2,
            9,
            "unexpected key or value, expected newline, `#`",
        ),
        (
            "version = 1\n[[grant]\n",
            2,
            9,
            "unclosed array table, expected `]`",
        ),
        (
            "version = 1\n é = 2",
            2,
            2,
            "invalid unquoted key, expected letters, numbers, `-`, `_`",
        ),
    ]);
}

#[test]
fn the_version_is_required_and_known() {
    check(&[
        (
            "",
            1,
            1,
            "the policy lacks the key version, which is required",
        ),
        (
            "version = '1'",
            1,
            11,
            "version must be a number, not the string \"1\"",
        ),
        ("version = -1", 1, 11, "version must be a number, not -1"),
        (
            // Whatever keys a later version has, the version is what is wrong.
            "\nversion = 0x2\nnew = 1",
            2,
            11,
            "version must be 1, the only one there is",
        ),
    ]);
}

#[test]
fn every_table_knows_its_keys() {
    check(&[
        (
            "version = 1\n[limit]\n",
            2,
            2,
            "unknown key \"limit\" in the policy; the keys are version, limits, confinement, grant",
        ),
        (
            "version = 1\n[limits]\nconnection = 1\n",
            3,
            1,
            "unknown key \"connection\" in [limits]; the keys are connections, \
             connections_per_user, mounts_per_user, requests_per_second, request_timeout, \
             idle_timeout",
        ),
        (
            "version = 1\n[confinement]\n\"a\\nb\" = 1\n",
            3,
            1,
            "unknown key \"a\\nb\" in [confinement]; the keys are require_landlock_abi",
        ),
        (
            // The first in the file, not in the alphabet.
            "version = 1\n[[grant]]\nuser = 1\nbinds = 1\n",
            3,
            1,
            "unknown key \"user\" in [[grant]]; the keys are name, users, groups, target, force, \
             shared_target, bind, tmpfs, block, fuse, overlay, image, network, remount, \
             propagation, passed_target, target_owner, detached, move",
        ),
        (
            "version = 1\n[[grant]]\nname = 'x'\n  [grant.blocks]\n  device = []\n",
            4,
            10,
            "unknown key \"blocks\" in [[grant]]; the keys are name, users, groups, target, force, \
             shared_target, bind, tmpfs, block, fuse, overlay, image, network, remount, \
             propagation, passed_target, target_owner, detached, move",
        ),
    ]);
}

#[test]
fn tables_are_tables() {
    check(&[
        (
            "version = 1\nlimits = 5",
            2,
            10,
            "limits must be the table [limits], not 5",
        ),
        (
            "version = 1\nlimits = [1]",
            2,
            10,
            "limits must be the table [limits], not a list",
        ),
        (
            "version = 1\n[grant]\nname = 'x'",
            2,
            1,
            "grant must be tables that each have the header [[grant]], not a table",
        ),
        (
            "version = 1\ngrant = [1]",
            2,
            10,
            "an element of grant must be the table [[grant]], not 1",
        ),
    ]);
}

#[test]
fn limits_have_bounds() {
    let duration = "must be a duration from \"1ms\" to \"24h\": a whole number and ms, s, m or h";
    check(&[
        (
            "version = 1\n[limits]\nconnections = 0",
            3,
            15,
            "connections must be a number from 1 to 65536, not 0",
        ),
        (
            "version = 1\n[limits]\nconnections = 65537",
            3,
            15,
            "connections must be a number from 1 to 65536, not 65537",
        ),
        (
            "version = 1\n[limits]\nconnections = 8\nconnections_per_user = 9",
            4,
            24,
            "connections_per_user is 9, which is above connections (8); one user cannot have more \
             than all together",
        ),
        (
            "version = 1\n[limits]\nmounts_per_user = 99999999999999999999",
            3,
            19,
            "mounts_per_user must be a number from 1 to 1000000, not 99999999999999999999",
        ),
        (
            "version = 1\n[limits]\nrequests_per_second = 0",
            3,
            23,
            "requests_per_second must be a number from 1 to 1000000, not 0",
        ),
        (
            "version = 1\n[confinement]\nrequire_landlock_abi = 6.5",
            3,
            24,
            "require_landlock_abi must be a number from 1 to 100, not a number with a fraction",
        ),
    ]);
    for (text, shown) in [
        ("10", "10"),
        ("\"10\"", "the string \"10\""),
        ("\"0ms\"", "the string \"0ms\""),
        ("\"10 s\"", "the string \"10 s\""),
        ("\"-1s\"", "the string \"-1s\""),
        ("\"s\"", "the string \"s\""),
        ("\"25h\"", "the string \"25h\""),
        ("\"1d\"", "the string \"1d\""),
        (
            "\"18446744073709551615h\"",
            "the string \"18446744073709551615h\"",
        ),
    ] {
        check(&[(
            &format!("version = 1\n[limits]\nidle_timeout = {text}"),
            3,
            16,
            &format!("idle_timeout {duration}, not {shown}"),
        )]);
    }
}

/// Cases in a grant whose lines begin with the third.
fn check_grant(cases: &[(&str, usize, usize, &str)]) {
    for (lines, line, column, message) in cases {
        let text = format!("version = 1\n[[grant]]\n{lines}\n");
        check(&[(&text, *line, *column, message)]);
    }
}

#[test]
fn a_grant_has_a_name() {
    let rule = "name must be 1 to 64 bytes without control characters, not the string";
    check_grant(&[
        ("", 2, 1, "[[grant]] lacks the key name, which is required"),
        ("name = ''", 3, 8, &format!("{rule} \"\"")),
        ("name = 'a\tb'", 3, 8, &format!("{rule} \"a\\tb\"")),
        ("name = \"\\u001b\"", 3, 8, &format!("{rule} \"\\u{{1b}}\"")),
        (
            &format!("name = '{}'", "n".repeat(65)),
            3,
            8,
            &format!("{rule} \"{}\"...", "n".repeat(64)),
        ),
        (
            "name = 'x'\nusers = [1]\ntarget = ['/t']\ntmpfs = { max_size = 1 }\n\
             [[grant]]\nname = 'x'\nusers = [1]\ntarget = ['/t']\ntmpfs = { max_size = 1 }",
            8,
            8,
            "the name \"x\" is taken by an earlier grant; each grant has a name of its own, \
             because denials and audit lines cite it",
        ),
    ]);
}

#[test]
fn a_grant_has_subjects_that_exist() {
    let nobody = "the grant is for nobody; name at least one user in users or one group in groups";
    let unknown = "and a grant must not come to mean whoever gets that name later; create it \
                   first or remove it here";
    check_grant(&[
        ("name = 'x'", 2, 1, nobody),
        ("name = 'x'\nusers = []\ngroups = []", 2, 1, nobody),
        (
            "name = 'x'\nusers = 'qemu'",
            4,
            9,
            "users must be a list of user names and numbers, not the string \"qemu\"",
        ),
        (
            "name = 'x'\nusers = ['qemu', 'nobody-such']",
            4,
            18,
            &format!("there is no user \"nobody-such\", {unknown}"),
        ),
        (
            "name = 'x'\ngroups = ['kvm', # é\n  \"é\"]",
            5,
            3,
            &format!("there is no group \"é\", {unknown}"),
        ),
        (
            "name = 'x'\nusers = [\"qemu\\u0000\"]",
            4,
            10,
            &format!("there is no user \"qemu\\0\", {unknown}"),
        ),
        (
            "name = 'x'\nusers = ['1000']",
            4,
            10,
            "there is no user \"1000\"; write a number without quotes",
        ),
        (
            "name = 'x'\nusers = [-1]",
            4,
            10,
            "an element of users must be a user name or a number from 0 to 4294967294, not -1",
        ),
        (
            "name = 'x'\ngroups = [1, 4294967295]",
            4,
            14,
            "an element of groups must be a group name or a number from 0 to 4294967294, not \
             4294967295",
        ),
    ]);
}

#[test]
fn roots_are_paths() {
    for (list, column, message) in [
        (
            "'/t'",
            10,
            "target must be a list of absolute paths, not the string \"/t\"",
        ),
        (
            "[]",
            10,
            "target must be a list of at least one absolute path, not an empty list",
        ),
        ("[1]", 11, "an element of target must be a string, not 1"),
        (
            "['/é', 't']",
            17,
            "the root \"t\" is refused: the path is relative; it must start with '/'",
        ),
        ("['']", 11, "the root \"\" is refused: the path is empty"),
        (
            "['/a/../b']",
            11,
            "the root \"/a/../b\" is refused: the path holds a '.' or '..' component; write the \
             path it leads to",
        ),
        (
            "['/a/']",
            11,
            "the root \"/a/\" is refused: the path holds '//' or ends in '/'",
        ),
        (
            "[\"/a\\u0000\"]",
            11,
            "the root \"/a\\0\" is refused: the path holds a NUL byte",
        ),
        (
            "['/']",
            11,
            "the target root \"/\" is refused: it would grant every directory of the system; name \
             the directory that mounts go beneath",
        ),
        (
            "['/a/{gid}']",
            11,
            "the root \"/a/{gid}\" is refused: a brace stands only in {uid} and {user}",
        ),
    ] {
        check_grant(&[(
            &format!("name = 'x'\nusers = [1]\ntarget = {list}"),
            5,
            column,
            message,
        )]);
    }
    check_grant(&[(
        "name = 'x'\nusers = [1]\ntarget = ['/{uid}//a']",
        5,
        11,
        "the root \"/{uid}//a\" is refused: the path holds '//' or ends in '/'",
    )]);
    check_grant(&[(
        "name = 'x'\nusers = [1]\ntarget = ['/t']\n [grant.bind]\n source = ['/s', 's']",
        7,
        18,
        "the root \"s\" is refused: the path is relative; it must start with '/'",
    )]);
}

#[test]
fn a_user_name_stands_only_where_it_is_known_and_plain() {
    let by_number = "the root \"/a/{user}\" is refused: {user} stands only in a grant for users \
                     that are given by name, because a peer's name must be known when the policy \
                     is read; use {uid}";
    let not_plain = |name: &str, root: &str| {
        format!(
            "the root \"{root}\" is refused: the user name \"{name}\" is not one plain component \
             of a path; use {{uid}}"
        )
    };
    check_grant(&[
        (
            "name = 'x'\nusers = [1]\ntarget = ['/a/{user}']",
            5,
            11,
            by_number,
        ),
        (
            "name = 'x'\nusers = ['qemu', 1]\ntarget = ['/a/{user}']",
            5,
            11,
            by_number,
        ),
        (
            "name = 'x'\nusers = ['qemu']\ngroups = [1]\ntarget = ['/a/{user}']",
            6,
            11,
            by_number,
        ),
        (
            "name = 'x'\nusers = ['a/b']\ntarget = ['/a/{user}']",
            5,
            11,
            &not_plain("a/b", "/a/{user}"),
        ),
        (
            "name = 'x'\nusers = ['qemu', '..']\ntarget = ['/a/{user}']",
            5,
            11,
            &not_plain("..", "/a/{user}"),
        ),
        (
            "name = 'x'\nusers = ['.']\ntarget = ['/a/x{user}']",
            5,
            11,
            &not_plain(".", "/a/x{user}"),
        ),
    ]);
}

#[test]
fn the_other_keys_of_a_grant_have_types() {
    let start = "name = 'x'\nusers = [1]\ntarget = ['/t']\n";
    for (lines, line, column, message) in [
        (
            "",
            2,
            1,
            "the grant allows no kind of mount; give it a table [grant.bind], [grant.tmpfs], \
             [grant.block], [grant.fuse], [grant.overlay], [grant.image] or [grant.network]",
        ),
        (
            "force = ['nodev', 'suid']",
            6,
            19,
            "an element of force must be nosuid, nodev, noexec, nosymfollow or ro, not the string \
             \"suid\"",
        ),
        (
            "shared_target = 'no'",
            6,
            17,
            "shared_target must be true or false, not the string \"no\"",
        ),
        ("remount = 1", 6, 11, "remount must be true or false, not 1"),
        ("move = 1", 6, 8, "move must be true or false, not 1"),
        (
            "propagation = 'shared'",
            6,
            15,
            "propagation must be a list of slave and shared, not the string \"shared\"",
        ),
        (
            "propagation = ['slave', 'private']",
            6,
            25,
            "an element of propagation must be slave or shared, not the string \"private\"",
        ),
        (
            "passed_target = 1",
            6,
            17,
            "passed_target must be true or false, not 1",
        ),
        (
            "target_owner = 'root'",
            6,
            16,
            "target_owner must be \"peer\", not the string \"root\"",
        ),
        (
            "bind = true",
            6,
            8,
            "bind must be the table [grant.bind], not true",
        ),
        (
            "  [grant.bind]\n  read_only = true",
            6,
            3,
            "[grant.bind] lacks the key source, which is required",
        ),
        (
            "[grant.bind]\nsource = ['/s']\nrecursive = 1979-05-27",
            8,
            13,
            "recursive must be true or false, not a date or time",
        ),
        (
            "[grant.bind]\nsource = ['/s']\npassed_source = 'peer'",
            8,
            17,
            "passed_source must be true or false, not the string \"peer\"",
        ),
        (
            "[grant.bind]\nsource = ['/s']\nsource_owner = true",
            8,
            16,
            "source_owner must be \"peer\", not true",
        ),
        (
            "tmpfs = {}",
            6,
            9,
            "[grant.tmpfs] lacks the key max_size, which is required",
        ),
        (
            "tmpfs = { max_size = 1, max_inodes = 0 }",
            6,
            38,
            "max_inodes must be a number, 1 or more and below 2^63, not 0",
        ),
    ] {
        check_grant(&[(&format!("{start}{lines}"), line, column, message)]);
    }
}

#[test]
fn attack_36_a_granted_map_is_spelt_out() {
    let start = "name = 'x'\nusers = [1]\ntarget = ['/t']\n[grant.bind]\nsource = ['/s']\n";
    let form = "an element of uids must be INSIDE:OUTSIDE:COUNT, three numbers as in a user \
                namespace's uid_map, or INSIDE:peer:1, not the string";
    let far = "an element of gids must be 1 or more ids, of which both the first and the last are \
               below 4294967295, not the string";
    let list = "must be a list of at least one range of ids, INSIDE:OUTSIDE:COUNT, not";
    for (lines, line, column, message) in [
        (
            "idmap = true",
            8,
            9,
            "idmap must be the table [grant.bind.idmap], not true".to_owned(),
        ),
        (
            "idmap = { uids = ['0:1:1'] }",
            8,
            9,
            "[grant.bind.idmap] lacks the key gids, which is required".to_owned(),
        ),
        (
            "idmap = { uids = ['0:1:1'], gid = ['0:1:1'] }",
            8,
            29,
            "unknown key \"gid\" in [grant.bind.idmap]; the keys are uids, gids".to_owned(),
        ),
        (
            "idmap = { uids = [], gids = ['0:1:1'] }",
            8,
            18,
            format!("uids {list} an empty list"),
        ),
        (
            "idmap = { uids = '0:1:1', gids = ['0:1:1'] }",
            8,
            18,
            format!("uids {list} the string \"0:1:1\""),
        ),
        (
            "idmap = { uids = ['0:1:1', '0:1'], gids = ['0:1:1'] }",
            8,
            28,
            format!("{form} \"0:1\""),
        ),
        (
            "idmap = { uids = ['0:me:1'], gids = ['0:1:1'] }",
            8,
            19,
            format!("{form} \"0:me:1\""),
        ),
        (
            "idmap = { uids = ['0:peer:2'], gids = ['0:1:1'] }",
            8,
            19,
            "an element of uids must be INSIDE:peer:1: the peer's own id is one, not the string \
             \"0:peer:2\""
                .to_owned(),
        ),
        (
            "idmap = { uids = ['0:1:1'], gids = ['0:1:0'] }",
            8,
            37,
            format!("{far} \"0:1:0\""),
        ),
        (
            "idmap = { uids = ['0:1:1'], gids = ['1:0:4294967295'] }",
            8,
            37,
            format!("{far} \"1:0:4294967295\""),
        ),
        (
            "idmap = { uids = ['0:1:1'], gids = ['0:4294967295:1'] }",
            8,
            37,
            format!("{far} \"0:4294967295:1\""),
        ),
    ] {
        check_grant(&[(&format!("{start}{lines}"), line, column, &message)]);
    }
}

#[test]
fn attack_35_detached_keeps_its_word() {
    let start = "name = 'x'\nusers = [1]\ntarget = ['/t']\n";
    for (lines, line, column, message) in [
        (
            "detached = 'yes'",
            6,
            12,
            "detached must be true or false, not the string \"yes\"",
        ),
        (
            "detached = true\ntmpfs.max_size = 1",
            6,
            12,
            "detached stands only in a grant with [grant.bind]: no other kind of mount is handed \
             over",
        ),
        (
            "force = ['nosymfollow']\ndetached = true\nbind.source = ['/srv']",
            7,
            12,
            "detached does not go with nosymfollow in force: the kernel does not lock that flag, \
             and whoever is handed the mount can clear it",
        ),
    ] {
        check_grant(&[(&format!("{start}{lines}"), line, column, message)]);
    }
}

#[test]
fn attack_14_what_a_device_may_hold_is_spelt_out() {
    check_grant(&[
        (
            "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.block]\ndevice = ['/dev/a']",
            6,
            1,
            "[grant.block] lacks the key filesystems, which is required",
        ),
        (
            "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.block]\nfilesystems = ['auto']\ndevice = ['/dev/a']",
            7,
            16,
            "\"auto\" is refused: the type of a file system is named, never guessed: say which",
        ),
        (
            "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.block]\nfilesystems = []\ndevice = ['/dev/a']",
            7,
            15,
            "filesystems must be a list of at least one of the types of file systems, not an empty list",
        ),
        (
            "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.block]\nfilesystems = ['xfs']\ndevice = ['a']",
            8,
            11,
            "the root \"a\" is refused: the path is relative; it must start with '/'",
        ),
        (
            "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.block]\nfilesystems = ['xfs']\ndevice = ['/dev/{user}']",
            8,
            11,
            "{user} does not stand in a device, where a name could be read as a pattern; use {uid}",
        ),
        (
            "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.block]\nfilesystems = ['xfs']\ndevice = ['/dev/a']\noptions = ['a,b']",
            9,
            12,
            "the option \"a,b\" is refused: the key of an option is 1 to 63 letters, digits or any of _ . + -",
        ),
        (
            "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.block]\nfilesystems = ['xfs']\ndevice = ['/dev/a']\noptions = ['source=*']",
            9,
            12,
            "the option \"source=*\" is refused: the helper sets it itself, from the grant or from what the kernel says of the peer",
        ),
    ]);
}

#[test]
fn an_overlay_names_its_layers() {
    check_grant(&[
        (
            "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.overlay]\nmax_layers = 1",
            6,
            1,
            "[grant.overlay] lacks the key layer, which is required",
        ),
        (
            "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.overlay]\nlayer = ['/a:/b', 'c']",
            7,
            19,
            "the root \"c\" is refused: the path is relative; it must start with '/'",
        ),
        (
            "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.overlay]\nlayer = ['/a']\nupper = []",
            8,
            9,
            "upper must be a list of at least one absolute path, not an empty list",
        ),
        (
            "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.overlay]\nlayer = ['/a']\nmax_layers = 0",
            8,
            14,
            "max_layers must be a number, 1 to 16, not 0",
        ),
        (
            "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.overlay]\nlayer = ['/a']\nmax_layers = 17",
            8,
            14,
            "max_layers must be a number, 1 to 16, not 17",
        ),
        (
            "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.overlay]\nlayer = ['/a']\nmetacopy = true",
            8,
            1,
            "unknown key \"metacopy\" in [grant.overlay]; the keys are layer, upper, max_layers",
        ),
    ]);
}

#[test]
fn attack_14_an_image_has_one_of_two_types() {
    check_grant(&[
        (
            "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.image]\nfile = ['/a']",
            6,
            1,
            "[grant.image] lacks the key filesystems, which is required",
        ),
        (
            "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.image]\nfile = ['a']\nfilesystems = ['erofs']",
            7,
            9,
            "the root \"a\" is refused: the path is relative; it must start with '/'",
        ),
        (
            "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.image]\nfile = ['/a']\nfilesystems = ['erofs', 'ext4']",
            8,
            25,
            "\"ext4\" is refused: the type of an image is erofs or squashfs",
        ),
        (
            "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.image]\nfile = ['/a']\nfilesystems = []",
            8,
            15,
            "filesystems must be a list of at least one of the types of images, not an empty list",
        ),
        (
            "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.image]\nfile = ['/a']\nread_only = true",
            8,
            1,
            "unknown key \"read_only\" in [grant.image]; the keys are file, filesystems, \
             loop_devices",
        ),
    ]);
}

#[test]
fn loop_devices_are_few_and_exist() {
    const START: &str = "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.image]\nfile = ['/a']\n\
                         filesystems = ['squashfs']\n";
    for (rest, column, message) in [
        (
            "loop_devices = 4",
            16,
            "loop_devices must be the table loop_devices, not 4",
        ),
        (
            "loop_devices = {}",
            16,
            "loop_devices lacks the key first, which is required",
        ),
        (
            "loop_devices = { first = 0 }",
            16,
            "loop_devices lacks the key count, which is required",
        ),
        (
            "loop_devices = { first = -1, count = 1 }",
            26,
            "first must be a number from 0 to 1048575, not -1",
        ),
        (
            "loop_devices = { first = 0, count = 0 }",
            37,
            "count must be a number from 1 to 64, not 0",
        ),
        (
            "loop_devices = { first = 0, count = 65 }",
            37,
            "count must be a number from 1 to 64, not 65",
        ),
        (
            "loop_devices = { first = 1048575, count = 2 }",
            43,
            "the last of 2 loop devices from 1048575 on is beyond 1048575",
        ),
        (
            "loop_devices = { first = 0, count = 1, last = 1 }",
            40,
            "unknown key \"last\" in loop_devices; the keys are first, count",
        ),
    ] {
        let text = format!("{START}{rest}");
        check_grant(&[(&text, 9, column, message)]);
    }
}

#[test]
fn what_a_network_file_system_may_be_is_spelt_out() {
    const START: &str = "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.network]\n";
    for (rest, line, column, message) in [
        (
            "source = ['s:/a']",
            6,
            1,
            "[grant.network] lacks the key filesystems, which is required",
        ),
        (
            "source = []\nfilesystems = ['nfs4']",
            7,
            10,
            "source must be a list of at least one pattern, in which * stands for any characters \
             but /, not an empty list",
        ),
        (
            "source = ['s:/a']\nfilesystems = ['nfs4', 'ext4']",
            8,
            24,
            "\"ext4\" is refused: no type of network file system is called so; there are nfs, \
             nfs4, cifs, smb3, 9p, ceph, virtiofs",
        ),
        (
            "source = ['s:/a']\nfilesystems = ['9p']\noptions = ['rfdno=*']",
            9,
            12,
            "the option \"rfdno=*\" is refused: the helper sets it itself, from the grant or from \
             what the kernel says of the peer",
        ),
        (
            "source = ['s:/a']\nfilesystems = ['cifs']\noptions = ['password=*']",
            6,
            1,
            "\"password\" is a secret, which options are not: put its key into secrets, for the \
             peer to bring the value",
        ),
        (
            "source = ['s:/a']\nfilesystems = ['cifs']\nsecrets = ['pass', 'source']",
            9,
            20,
            "the secret \"source\" is refused: the helper sets it itself",
        ),
    ] {
        check_grant(&[(&format!("{START}{rest}"), line, column, message)]);
    }
}

#[test]
fn attack_17_who_serves_a_fuse_mount_is_no_key() {
    check_grant(&[
        (
            "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.fuse]\nsubtypes = []",
            7,
            12,
            "subtypes must be a list of at least one pattern, in which * stands for any characters but /, not an empty list",
        ),
        (
            "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.fuse]\nsubtypes = ['a', '']",
            7,
            18,
            "an element of subtypes must be a pattern, not empty and without control characters, not the string \"\"",
        ),
        (
            "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.fuse]\nsubtypes = ['a']\nuser_id = 0",
            8,
            1,
            "unknown key \"user_id\" in [grant.fuse]; the keys are subtypes, sources, allow_other, default_permissions, read_only, device",
        ),
    ]);
}

#[test]
fn a_device_of_a_program_is_described_as_one_of_the_kernels() {
    let users =
        "name = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n[grant.fuse]\nsubtypes = ['a']\n";
    let texts = ["[]", "'/dev/a'", "['/dev/a', 'b']", "['/dev/{user}']"]
        .map(|devices| format!("{users}device = {devices}"));
    let [empty, text, relative, named] = texts.each_ref().map(String::as_str);
    check_grant(&[
        (
            empty,
            8,
            10,
            "device must be a list of at least one absolute path, not an empty list",
        ),
        (
            text,
            8,
            10,
            "device must be a list of absolute paths, not the string \"/dev/a\"",
        ),
        (
            relative,
            8,
            21,
            "the root \"b\" is refused: the path is relative; it must start with '/'",
        ),
        (
            named,
            8,
            11,
            "{user} does not stand in a device, where a name could be read as a pattern; use {uid}",
        ),
    ]);
}

#[test]
fn more_names_than_the_kernel_is_given_are_refused() {
    let options = |count: usize| {
        let options: Vec<_> = (0..count).map(|n| format!("'o{n}'")).collect();
        format!(
            "version = 1\n[[grant]]\nname = 'g'\nusers = ['qemu']\ntarget = ['/run/a']\n\
             [grant.block]\nfilesystems = ['xfs']\ndevice = ['/dev/a']\noptions = [{}]",
            options.join(", ")
        )
    };
    assert!(Policy::parse(Path::new("p"), &options(254), &Names).is_ok());
    let text = options(255);
    check(&[(
        &text,
        1,
        1,
        "the grants name 256 types of file systems, keys of their options and loop devices, and may name 255",
    )]);
}

#[test]
fn attack_18_sizes_that_no_tmpfs_has_are_refused() {
    for (size, shown) in [
        ("0", "0"),
        ("-1", "-1"),
        ("'0'", "the string \"0\""),
        ("'-1'", "the string \"-1\""),
        ("'1X'", "the string \"1X\""),
        ("'50%'", "the string \"50%\""),
        ("9223372036854775808", "9223372036854775808"),
        ("18446744073709551615", "18446744073709551615"),
        ("'8388608T'", "the string \"8388608T\""),
        ("'16777216TiB'", "the string \"16777216TiB\""),
        ("true", "true"),
    ] {
        check_grant(&[(
            &format!("name = 'x'\nusers = [1]\ntarget = ['/t']\n[grant.tmpfs]\nmax_size = {size}"),
            7,
            12,
            &format!(
                "max_size must be 1 byte or more and below 2^63: a number of bytes, or a string \
                 with K, M, G or T (KiB, MiB, GiB, TiB) after the number, not {shown}"
            ),
        )]);
    }
}

#[test]
fn hostile_texts_are_refused_in_bounds() {
    let long = error(&" ".repeat(1024 * 1024 + 1));
    assert_eq!(
        (long.line, long.column, long.message.as_str()),
        (
            1,
            1,
            "the policy has 1048577 bytes and may have 1048576; split it into fewer, wider grants"
        )
    );
    let fits = format!("version = 1\n{}", " ".repeat(1024 * 1024 - 12));
    assert!(Policy::parse(Path::new("p"), &fits, &Names).is_ok());

    let key = error(&format!("version = 1\n{} = 1", "k".repeat(100_000)));
    assert_eq!((key.line, key.column), (2, 1));
    assert!(key.message.len() < 200, "{key}");
    for deep in ["a.".repeat(400_000), "a=".to_owned() + &"[".repeat(400_000)] {
        assert!(error(&deep).message.len() < 2000);
    }
}

#[test]
fn the_files_name_breaks_no_line() {
    let error = Policy::parse(Path::new("a\nb\u{1b}"), "", &Names).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a\\nb\\u{1b}:1:1: the policy lacks the key version, which is required"
    );
}
