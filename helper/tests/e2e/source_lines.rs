//! Which lines of the program run in a role, by a breakpoint on each line of the
//! debug information (DWARF, section 6.2).
//!
//! A breakpoint goes away when it is hit, so that a line costs once a process.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use gimli::{Dwarf, EndianSlice, LittleEndian, Reader};
use nix::sys::ptrace;
use nix::unistd::Pid;
use object::{Object, ObjectSection, SectionKind};

/// The lines of a program.
pub(crate) struct Lines {
    /// File and line, by the address where its code begins.
    rows: BTreeMap<u64, String>,
    code: Vec<Section>,
    /// Where the processes that have breakpoints have the program.
    armed: HashMap<Pid, Armed>,
}

/// A section of code, as it is and with its breakpoints.
struct Section {
    address: u64,
    bytes: Vec<u8>,
    with_breakpoints: Vec<u8>,
}

struct Armed {
    base: u64,
    memory: File,
}

/// `int3`
const BREAKPOINT: u8 = 0xcc;

impl Lines {
    /// Reads the debug information of a program.
    pub(crate) fn of(program: &Path) -> Self {
        let bytes = fs::read(program).unwrap();
        let object = object::File::parse(&*bytes).unwrap();
        let mut code: Vec<Section> = object
            .sections()
            .filter(|section| section.kind() == SectionKind::Text)
            .map(|section| Section {
                address: section.address(),
                bytes: section.data().unwrap().to_vec(),
                with_breakpoints: section.data().unwrap().to_vec(),
            })
            .collect();
        let mut rows = rows(&object);
        // Code that the linker left out has lines too, at no address.
        rows.retain(|&at, _| {
            let place = code.iter_mut().find_map(|section| {
                let offset = usize::try_from(at.checked_sub(section.address)?).ok()?;
                section.with_breakpoints.get_mut(offset)
            });
            place.map(|byte| *byte = BREAKPOINT).is_some()
        });
        Self {
            rows,
            code,
            armed: HashMap::new(),
        }
    }

    /// Sets every breakpoint in a stopped process.
    pub(crate) fn arm(&mut self, pid: Pid) {
        let (base, memory) = opened(pid);
        for section in &self.code {
            let address = base + section.address;
            memory
                .write_all_at(&section.with_breakpoints, address)
                .unwrap();
        }
        self.armed.insert(pid, Armed { base, memory });
    }

    /// Whether a process stands at a breakpoint, which then is one no more: the line.
    /// A process that was forked has its parent's.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn hit(&mut self, pid: Pid) -> Option<&str> {
        let mut registers = ptrace::getregs(pid).ok()?;
        let armed = self.armed.entry(pid).or_insert_with(|| {
            let (base, memory) = opened(pid);
            Armed { base, memory }
        });
        let at = registers.rip.checked_sub(armed.base)?.checked_sub(1)?;
        let line = self.rows.get(&at)?;
        let original = self.code.iter().find_map(|section| {
            let offset = usize::try_from(at.checked_sub(section.address)?).ok()?;
            section.bytes.get(offset)
        })?;
        armed
            .memory
            .write_all_at(&[*original], armed.base + at)
            .unwrap();
        registers.rip -= 1;
        ptrace::setregs(pid, registers).unwrap();
        Some(line)
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn hit(&mut self, _: Pid) -> Option<&str> {
        None
    }
}

/// Whether a program was built with debug information.
pub(crate) fn are_known(program: &Path) -> bool {
    let bytes = fs::read(program).unwrap();
    let object = object::File::parse(&*bytes).unwrap();
    object.section_by_name(".debug_line").is_some()
}

/// Where a process has the program, and its memory.
fn opened(pid: Pid) -> (u64, File) {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let first = maps
        .lines()
        .find(|line| line.ends_with("/mountwardend"))
        .unwrap();
    let base = u64::from_str_radix(first.split_once('-').unwrap().0, 16).unwrap();
    let path = format!("/proc/{pid}/mem");
    (base, File::options().write(true).open(path).unwrap())
}

/// The first address of each run of instructions of one line.
fn rows(object: &object::File<'_>) -> BTreeMap<u64, String> {
    let section = |id: gimli::SectionId| {
        let data = object
            .section_by_name(id.name())
            .map(|section| section.data().unwrap());
        Ok::<_, gimli::Error>(EndianSlice::new(data.unwrap_or_default(), LittleEndian))
    };
    let dwarf = Dwarf::load(section).unwrap();
    let mut found = BTreeMap::new();
    let mut units = dwarf.units();
    while let Some(header) = units.next().unwrap() {
        let unit = dwarf.unit(header).unwrap();
        let Some(program) = unit.line_program.clone() else {
            continue;
        };
        let mut names: HashMap<u64, String> = HashMap::new();
        let mut rows = program.rows();
        while let Some((header, row)) = rows.next_row().unwrap() {
            let (Some(line), false) = (row.line(), row.end_sequence()) else {
                continue;
            };
            let name = names
                .entry(row.file_index())
                .or_insert_with(|| file_name(&dwarf, &unit, header, row));
            found.insert(row.address(), format!("{name}:{line}"));
        }
    }
    found
}

fn file_name<R: Reader>(
    dwarf: &Dwarf<R>,
    unit: &gimli::Unit<R>,
    header: &gimli::LineProgramHeader<R>,
    row: &gimli::LineRow,
) -> String {
    let text = |value| {
        let text = dwarf.attr_string(unit, value).unwrap();
        text.to_string_lossy().unwrap().into_owned()
    };
    let file = row.file(header).unwrap();
    let mut path = PathBuf::new();
    if let Some(directory) = &unit.comp_dir {
        path.push(&*directory.to_string_lossy().unwrap());
    }
    path.push(file.directory(header).map(text).unwrap_or_default());
    path.push(text(file.path_name()));
    path.to_string_lossy().into_owned()
}
