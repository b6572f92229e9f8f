//! One user, while another floods the helper.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mountwarden_client::Client;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::geteuid;

use crate::flood::{self, ATTACKS, Flood};
use crate::memory::{self, Held};
use crate::namespace::Namespace;
use crate::pairs::Pair;
use crate::report::{self, Figures, Series};
use crate::server::{Limits, Place, Server};
use crate::{Outcome, Rounds, crowd};

/// Between two looks of the measured user, who stays within its own budget.
const PAUSE: Duration = Duration::from_millis(20);
/// A flood has used up what its user may do at once.
const BEGIN: Duration = Duration::from_secs(1);
/// How long the helper may take to be what it was.
const END: Duration = Duration::from_mins(1);

pub(crate) fn run(place: &Place, _: &Server, rounds: Rounds) -> Outcome<()> {
    report::section("One user while another floods the helper, which has its default limits");
    if !geteuid().is_root() {
        println!("SKIPPED: it takes two users");
        return Ok(());
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let needed = u64::try_from(flood::SILENT)?.saturating_add(1000);
    if setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed)).is_err() {
        println!("SKIPPED: a process may have {hard} descriptors, and this takes {needed}");
        return Ok(());
    }
    for thread in 0..flood::THREADS {
        fs::create_dir(place.at(&format!("noisy/{thread}")))?;
    }
    let server = Server::start(place, Namespace::Root, Limits::Default)?;
    println!("  quiet and flooded: medians (p99) in us; growth: of the medians");
    println!(
        "  {:<32} {:>17} {:>17} {:>6} {:>17} {:>17} {:>6}  gate + warden after",
        "flood", "pair, quiet", "flooded", "growth", "connect, quiet", "flooded", "growth"
    );
    for (name, _) in ATTACKS {
        match Scene::set(name, place) {
            Ok(_scene) => one(name, place, &server, rounds)?,
            Err(error) => println!("  {name:<32} SKIPPED: {error}"),
        }
    }
    Ok(())
}

/// One flood: before, during, after.
fn one(name: &str, place: &Place, server: &Server, rounds: Rounds) -> Outcome<()> {
    let mut pair = Pair::new(place, server)?;
    measure(&mut pair, server, rounds.looks)?;
    let before = Left::by(server)?;
    let quiet = measure(&mut pair, server, rounds.looks)?;
    let mut flood = Flood::start(name, place, server)?;
    std::thread::sleep(BEGIN);
    let flooded = measure(&mut pair, server, rounds.looks)?;
    flood.end()?;
    let after = Left::settled(server, &before)?;
    print!("  {name:<32}");
    for (quiet, flooded) in quiet.iter().zip(&flooded) {
        let [quiet_text, flooded_text] =
            [quiet, flooded].map(|it| format!("{:.0} ({:.0})", it.median, it.p99));
        let growth = flooded.median / quiet.median;
        print!(" {quiet_text:>17} {flooded_text:>17} {growth:>6.2}");
    }
    println!(
        "  fds {} -> {}, PSS {} -> {} KiB",
        before.descriptors, after.descriptors, before.memory, after.memory
    );
    Ok(())
}

/// Pairs over an open connection, and new connections, in turn.
fn measure(pair: &mut Pair, server: &Server, looks: usize) -> Outcome<[Figures; 2]> {
    let (mut pairs, mut connects) = (Series::new("pair"), Series::new("connect"));
    for _ in 0..looks {
        let [mounting, unmounting] = pair.bind()?;
        pairs.add(mounting.saturating_add(unmounting));
        let begun = Instant::now();
        let client = Client::connect_to(&server.socket)?;
        connects.add(begun.elapsed());
        drop(client);
        std::thread::sleep(PAUSE);
    }
    Ok([pairs.figures(), connects.figures()])
}

/// What a flood needs beside its own process; gone when the value is.
struct Scene {
    mounted: Option<std::path::PathBuf>,
    /// Of a file system whose server, this process, does not answer.
    device: Option<File>,
}

impl Scene {
    fn set(name: &str, place: &Place) -> Outcome<Self> {
        let mut scene = Self {
            mounted: None,
            device: None,
        };
        if name.contains("among") {
            crowd::fill(place, 10_000)?;
            scene.mounted = Some(place.at("outside"));
        }
        if name.contains("hung") {
            let at = place.at("noisy/hung");
            scene.device = Some(hang(&at)?);
            scene.mounted = Some(at);
        }
        Ok(scene)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        drop(self.device.take());
        if let Some(path) = &self.mounted
            && let Err(errno) = umount2(path, MntFlags::MNT_DETACH)
        {
            println!("{} stays mounted: {errno}", path.display());
        }
    }
}

fn hang(at: &std::path::Path) -> Outcome<File> {
    let device = File::options().read(true).write(true).open("/dev/fuse")?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
        device.as_raw_fd()
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let (name, kind) = (Some("hung"), Some("fuse"));
    mount(name, at, kind, flags, Some(options.as_str()))?;
    Ok(device)
}

/// What gate and warden hold.
struct Left {
    processes: usize,
    descriptors: usize,
    memory: f64,
}

impl Left {
    fn by(server: &Server) -> Outcome<Self> {
        let family = memory::family(server)?;
        let mut descriptors: usize = 0;
        for process in family.iter().filter(|process| process.lasts()) {
            let open = fs::read_dir(format!("/proc/{}/fd", process.pid))?.count();
            descriptors = descriptors.saturating_add(open);
        }
        Ok(Self {
            processes: family.len(),
            descriptors,
            memory: Held::by(server)?.unwrap_or_default().lasting(),
        })
    }

    /// Waits until no more is left than there was.
    fn settled(server: &Server, before: &Self) -> Outcome<Self> {
        let begun = Instant::now();
        loop {
            let over = memory::family(server)?.len() <= before.processes;
            if over || begun.elapsed() > END {
                return Self::by(server);
            }
            std::thread::sleep(PAUSE);
        }
    }
}
