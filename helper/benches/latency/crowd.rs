//! The same requests in a namespace with very many mounts.

use std::fs;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::pairs::Pair;
use crate::report::{self, Figures, Series};
use crate::server::{Place, Server};
use crate::{Outcome, Rounds};

pub(crate) fn run(place: &Place, server: &Server, rounds: Rounds) -> Outcome<()> {
    let crowd = rounds.crowd;
    report::section(&format!("With {crowd} more mounts in the namespace"));
    let limit: usize = fs::read_to_string("/proc/sys/fs/mount-max")?
        .trim()
        .parse()?;
    let needed = crowd.saturating_add(present()?).saturating_add(100);
    if limit < needed {
        println!("SKIPPED: fs.mount-max is {limit}, and this takes {needed}");
        return Ok(());
    }
    report::columns();
    let mut pair = Pair::new(place, server)?;
    let mut alone = Both::new("without them");
    alone.measure(&mut pair, rounds)?;
    let begun = Instant::now();
    fill(place, crowd)?;
    let took = begun.elapsed().as_secs_f64();
    let mut among = Both::new("among them");
    among.measure(&mut pair, rounds)?;
    lists(&mut pair, rounds, "none of them one's own")?;
    // To a place that is granted: now each of them is in the peer's list.
    let granted = place.at("target/crowd");
    fs::create_dir(&granted)?;
    mount(
        Some(&place.at("outside")),
        &granted,
        None::<&str>,
        MsFlags::MS_MOVE,
        None::<&str>,
    )?;
    lists(&mut pair, rounds, "all of them one's own")?;
    umount2(&granted, MntFlags::MNT_DETACH)?;
    // The kernel still frees them when the call is back.
    std::thread::sleep(Duration::from_millis(500));
    // Before and after, so that a machine whose load changes favours neither.
    alone.measure(&mut pair, rounds)?;
    let [ours_alone, raw_alone] = alone.print();
    let [ours_among, raw_among] = among.print();
    for (what, among, alone) in [
        ("bind + unmount", ours_among, ours_alone),
        ("raw", raw_among, raw_alone),
    ] {
        let (median, p10) = (among.median / alone.median, among.p10 / alone.p10);
        println!("  growth of {what}: {median:.2} (p10 {p10:.2})");
    }
    println!("  making the mounts took {took:.1} s");
    Ok(())
}

/// The mounts of this namespace.
fn present() -> Outcome<usize> {
    Ok(fs::read_to_string("/proc/self/mountinfo")?.lines().count())
}

/// Bind mounts, on a tmpfs that can be moved with all of them.
pub(crate) fn fill(place: &Place, crowd: usize) -> Outcome<()> {
    let outside = place.at("outside");
    mount(
        Some("tmpfs"),
        &outside,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )?;
    let source = place.at("source");
    for number in 0..crowd {
        let target = outside.join(number.to_string());
        fs::create_dir(&target)?;
        mount(
            Some(&source),
            &target,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
    }
    Ok(())
}

/// Our pairs and raw ones.
struct Both {
    ours: Series,
    raw: Series,
}

impl Both {
    fn new(when: &str) -> Self {
        Self {
            ours: Series::new(format!("bind + unmount, {when}")),
            raw: Series::new(format!("raw, {when}")).base(),
        }
    }

    /// One after the other, in turn.
    fn measure(&mut self, pair: &mut Pair, rounds: Rounds) -> Outcome<()> {
        for round in 0..rounds.warm_up.saturating_add(rounds.crowd_pairs) {
            let [mount, unmount] = pair.bind()?;
            let raw = pair.raw_bind()?;
            if round >= rounds.warm_up {
                self.ours.add(mount.saturating_add(unmount));
                self.raw.add(raw);
            }
        }
        Ok(())
    }

    /// Ours first.
    fn print(self) -> [Figures; 2] {
        let raw = report::series(self.raw, None);
        [report::series(self.ours, Some(raw)), raw]
    }
}

fn lists(pair: &mut Pair, rounds: Rounds, whose: &str) -> Outcome<()> {
    let mut list = Series::new(format!("list, {whose}"));
    let mut status = Series::new(format!("status, {whose}"));
    for _ in 0..rounds.lists {
        let begun = Instant::now();
        pair.client().list()?;
        list.add(begun.elapsed());
    }
    for _ in 0..rounds.crowd_pairs {
        let begun = Instant::now();
        pair.client().status()?;
        status.add(begun.elapsed());
    }
    report::series(list, None);
    report::series(status, None);
    Ok(())
}
