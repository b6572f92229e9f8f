//! `mountwarden-fusermount3`: what programs of libfuse call in the place of the setuid
//! `fusermount3` and `fusermount`, with the same command line. It asks the helper.

mod arguments;
mod channel;
mod mounting;
mod options;
mod place;
mod unmounting;
mod waiting;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use mountwarden_protocol::escape::Safe;

use arguments::Command;
use channel::Channel;
use options::Options;
use waiting::Mounted;

/// The command line is that of this version of libfuse.
const VERSION: &str = "3.18.0";

const USAGE: &str = "\
[options] mountpoint
Mounts and unmounts FUSE file systems for programs of libfuse, by the helper of mountwarden.
Options:
  -o, --options OPT[,OPT...]  mount options; the last -o counts
  -u, --unmount               unmount
  -z, --lazy                  unmount even if it is in use
  -q, --quiet                 do not say why nothing was unmounted
  -h, --help                  print this
  -V, --version               print the version
      --auto-unmount          mount nothing: unmount when the socket ends
      --comm-fd N             the socket that the connection is sent over

Mount options:
  fsname=NAME  subtype=NAME  max_read=BYTES  allow_other  default_permissions  auto_unmount
  ro rw  suid nosuid  dev nodev  exec noexec  symfollow nosymfollow

Environment:
  _FUSE_COMMFD        the number of the socket, unless --comm-fd is given
  MOUNTWARDEN_SOCKET  the helper's socket
";

/// Runs the command with this process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_else(|| "fusermount3".into());
    let name = Name(name.to_string_lossy().into_owned());
    match run(&name, words) {
        Ok(status) => status,
        Err(message) => {
            name.say(&message);
            ExitCode::FAILURE
        }
    }
}

/// What the program was called as, which begins each of its messages.
struct Name(String);

impl Name {
    fn say(&self, message: &str) {
        // There is nowhere left to report that standard error is closed.
        let _ = writeln!(std::io::stderr(), "{}: {message}", Safe(&self.0));
    }
}

fn run(name: &Name, words: impl Iterator<Item = OsString>) -> Result<ExitCode, String> {
    refuse_setuid()?;
    match arguments::parse(words)? {
        Command::Help => {
            print(&format!("{}: {USAGE}", Safe(&name.0)));
            return Ok(ExitCode::FAILURE);
        }
        Command::Version => print(&format!(
            "fusermount3 version: {VERSION} (mountwarden {})\n",
            env!("CARGO_PKG_VERSION")
        )),
        Command::Unmount { place, lazy, quiet } => {
            let place = place::resolve(&place)?;
            if let Err(failed) = unmounting::unmount(&place, lazy) {
                if !(quiet && failed.is_answer) {
                    name.say(&failed.message);
                }
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Mount {
            place,
            options,
            socket,
        } => {
            let place = place::resolve(&place)?;
            let channel = Channel::named(socket)?;
            let options = Options::parse(&options.to_string_lossy())?;
            let stays = options.auto_unmount;
            let mounted = mounting::mount(name, options, &place, &channel)?;
            if stays {
                waiting::wait(&channel, &place, &mounted)?;
            }
        }
        Command::Wait { place, socket } => {
            let place = place::resolve(&place)?;
            let channel = Channel::named(socket)?;
            let mounted = Mounted::at(&place)?;
            waiting::wait(&channel, &place, &mounted)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A package's script that makes `fusermount3` setuid can meet this program in its place.
fn refuse_setuid() -> Result<(), String> {
    if nix::unistd::getuid() == nix::unistd::geteuid() {
        return Ok(());
    }
    let why = "this program is not to be setuid, and does nothing while it is: take the bit away \
               (chmod u-s)";
    Err(why.to_owned())
}

fn print(text: &str) {
    // Who closed standard output does not want it.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
