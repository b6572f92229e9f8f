//! Requests over an open connection, beside the work that they cannot spare.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mountwarden_client::protocol::{Request, frame};
use mountwarden_client::{Bind, Client, Operation, Tmpfs, TmpfsSize};

use crate::chain::Chain;
use crate::report::{self, Series};
use crate::server::{Place, Server};
use crate::{Outcome, Rounds, raw};

/// The paths of a pair, and the connection that is asked for it.
pub(crate) struct Pair {
    client: Client,
    source: PathBuf,
    ours: PathBuf,
    raw: PathBuf,
    above: PathBuf,
}

impl Pair {
    pub(crate) fn new(place: &Place, server: &Server) -> Outcome<Self> {
        Ok(Self {
            client: Client::connect_to(&server.socket)?,
            source: place.at("source"),
            ours: place.at("target/ours"),
            raw: place.at("target/raw"),
            above: place.at("target"),
        })
    }

    /// A bind mount, its end; how long each took.
    pub(crate) fn bind(&mut self) -> Outcome<[Duration; 2]> {
        let bind = Bind::new(&self.source, &self.ours)?;
        let begun = Instant::now();
        let mounted = self.client.mount(bind)?;
        let between = Instant::now();
        self.client.unmount(&mounted)?;
        Ok([between.duration_since(begun), between.elapsed()])
    }

    /// The same by system calls of this process.
    pub(crate) fn raw_bind(&self) -> Outcome<Duration> {
        let begun = Instant::now();
        raw::bind(&self.source, &self.raw)?;
        raw::unmount(&self.above, b"raw")?;
        Ok(begun.elapsed())
    }

    fn tmpfs(&mut self) -> Outcome<Duration> {
        let tmpfs = Tmpfs::new(&self.ours)?.size("1MiB".parse::<TmpfsSize>()?);
        let begun = Instant::now();
        let mounted = self.client.mount(tmpfs)?;
        self.client.unmount(&mounted)?;
        Ok(begun.elapsed())
    }

    fn raw_tmpfs(&self) -> Outcome<Duration> {
        let begun = Instant::now();
        raw::tmpfs_pair(&self.raw)?;
        Ok(begun.elapsed())
    }

    /// The client, for other requests.
    pub(crate) fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The size of the longest request of a pair.
    fn request_size(&self) -> Outcome<usize> {
        let bind = Bind::new(&self.source, &self.ours)?;
        let request = Request::Perform(Operation::from(bind));
        Ok(frame::encode(&request)?.len())
    }
}

pub(crate) fn run(place: &Place, server: &Server, rounds: Rounds) -> Outcome<()> {
    let mut pair = Pair::new(place, server)?;
    let mut chain = Chain::start(pair.request_size()?)?;
    let mut mount = Series::new("  of it: the mount");
    let mut unmount = Series::new("  of it: the unmount");
    let mut bind = Series::new("bind + unmount");
    let mut raw_bind = Series::new("the same calls, raw");
    let mut trips = Series::new("two round trips, three processes");
    let mut floor = Series::new("raw + two round trips");
    let mut tmpfs = Series::new("tmpfs + unmount");
    let mut raw_tmpfs = Series::new("mount(2) + umount2(2)");
    let mut status = Series::new("status");
    for round in 0..rounds.warm_up.saturating_add(rounds.pairs) {
        let [mounting, unmounting] = pair.bind()?;
        let raw_time = pair.raw_bind()?;
        let begun = Instant::now();
        chain.round_trip()?;
        chain.round_trip()?;
        let trip_time = begun.elapsed();
        let tmpfs_time = pair.tmpfs()?;
        let raw_tmpfs_time = pair.raw_tmpfs()?;
        let begun = Instant::now();
        pair.client().status()?;
        let status_time = begun.elapsed();
        if round >= rounds.warm_up {
            mount.add(mounting);
            unmount.add(unmounting);
            bind.add(mounting.saturating_add(unmounting));
            raw_bind.add(raw_time);
            trips.add(trip_time);
            floor.add(raw_time.saturating_add(trip_time));
            tmpfs.add(tmpfs_time);
            raw_tmpfs.add(raw_tmpfs_time);
            status.add(status_time);
        }
    }
    report::section("Requests over an open connection (ratio of medians, to the line marked *)");
    report::columns();
    let raw_bind = report::series(raw_bind.base(), None);
    let bind = report::series(bind, Some(raw_bind));
    report::series(mount, Some(raw_bind));
    report::series(unmount, Some(raw_bind));
    report::series(trips, Some(raw_bind));
    // Added round by round: medians of two series that swing cannot be added.
    let floor = report::series(floor, Some(raw_bind));
    let name = "bind + unmount / (raw + trips)";
    report::target(name, bind.median / floor.median, 1.5);
    report::target(&format!("{name}, p10"), bind.p10 / floor.p10, 1.5);
    let raw_tmpfs = report::series(raw_tmpfs.base(), None);
    report::series(tmpfs, Some(raw_tmpfs));
    report::series(status, None);
    Ok(())
}
