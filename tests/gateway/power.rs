//! Simulated power cuts: writes since the last real sync of a process are kept, dropped or torn,
//! and the journal is opened on the result.
//!
//! `tests/power/trace.c` records every write, sync, rename and removal of a child. A cut is a
//! moment in that record. Of a file, the synced part is there; of the rest each page of 4 KiB is
//! there, or not, or torn at 512 bytes. Of a directory, the synced entries are there, and the first
//! few of the later changes, in their order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use fastrand::Rng;
use wellhead::store::{Journal, PartitionBytes};

const PAGE: usize = 4096;
const SECTOR: usize = 512;
const PARTITION: PartitionBytes = PartitionBytes(4 << 20);

#[derive(Debug)]
struct Record {
    kind: u8,
    inode: u64,
    dir: u64,
    dir2: u64,
    offset: u64,
    name: String,
    name2: String,
    data: Vec<u8>,
}

fn records(bytes: &[u8]) -> Vec<Record> {
    let mut rest = bytes;
    let mut take = |n: usize| {
        let (head, tail) = rest.split_at(n.min(rest.len()));
        rest = tail;
        head
    };
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let mut found = Vec::new();
    loop {
        let kind = match take(1) {
            [kind] => *kind,
            _ => return found,
        };
        let [inode, dir, dir2, offset] = [(); 4].map(|()| number(take(8)));
        let length = number(take(4));
        let mut text = || {
            let length = number(take(2)) as usize;
            String::from_utf8(take(length).to_vec()).unwrap()
        };
        let (name, name2) = (text(), text());
        let data = take(length as usize).to_vec();
        found.push(Record {
            kind,
            inode,
            dir,
            dir2,
            offset,
            name,
            name2,
            data,
        });
    }
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

/// A file or a directory. The file system reuses its numbers; these are unique.
type Id = usize;

#[derive(Debug, Clone, Default)]
struct Node {
    is_dir: bool,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Move {
    Link(Id, String, Id),
    Unlink(Id, String),
    Rename(Id, String, Id, String),
}

impl Move {
    fn touches(&self, dir: Id) -> bool {
        match self {
            Self::Link(parent, ..) | Self::Unlink(parent, _) => *parent == dir,
            Self::Rename(from, _, to, _) => *from == dir || *to == dir,
        }
    }

    fn apply(&self, names: &mut HashMap<Id, BTreeMap<String, Id>>) {
        match self {
            Self::Link(dir, name, id) => {
                names.entry(*dir).or_default().insert(name.clone(), *id);
            }
            Self::Unlink(dir, name) => drop(names.entry(*dir).or_default().remove(name)),
            Self::Rename(from, name, to, new) => {
                if let Some(id) = names.entry(*from).or_default().remove(name) {
                    names.entry(*to).or_default().insert(new.clone(), id);
                }
            }
        }
    }
}

/// A file system as it is on disk, and the writes on their way there.
struct Disk {
    nodes: Vec<Node>,
    by_inode: HashMap<u64, Id>,
    root: Id,
    /// Durable directories.
    names: HashMap<Id, BTreeMap<String, Id>>,
    moves: Vec<Move>,
}

impl Disk {
    /// A folder, all of it durable.
    fn of(folder: &Path) -> Self {
        let mut disk = Self {
            nodes: Vec::new(),
            by_inode: HashMap::new(),
            root: 0,
            names: HashMap::new(),
            moves: Vec::new(),
        };
        disk.root = disk.load(folder);
        disk
    }

    fn add(&mut self, inode: u64, node: Node) -> Id {
        self.nodes.push(node);
        self.by_inode.insert(inode, self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    fn load(&mut self, path: &Path) -> Id {
        let meta = fs::metadata(path).unwrap();
        let is_dir = meta.is_dir();
        let durable = if is_dir {
            Vec::new()
        } else {
            fs::read(path).unwrap()
        };
        let id = self.add(
            meta.ino(),
            Node {
                is_dir,
                durable,
                pending: Vec::new(),
            },
        );
        if is_dir {
            self.names.insert(id, BTreeMap::new());
            for entry in fs::read_dir(path).unwrap() {
                let entry = entry.unwrap();
                let child = self.load(&entry.path());
                self.names
                    .get_mut(&id)
                    .unwrap()
                    .insert(entry.file_name().into_string().unwrap(), child);
            }
        }
        id
    }

    fn id(&self, inode: u64) -> Id {
        self.by_inode[&inode]
    }

    fn apply(&mut self, record: &Record) {
        match record.kind {
            b'C' | b'M' => {
                let id = self.add(
                    record.inode,
                    Node {
                        is_dir: record.kind == b'M',
                        ..Node::default()
                    },
                );
                self.moves
                    .push(Move::Link(self.id(record.dir), record.name.clone(), id));
            }
            b'W' => {
                let id = self.id(record.inode);
                self.nodes[id]
                    .pending
                    .push(Change::Write(record.offset, record.data.clone()));
            }
            b'T' => {
                let id = self.id(record.inode);
                self.nodes[id].pending.push(Change::Truncate(record.offset));
            }
            b'S' => self.sync(self.id(record.inode)),
            b'U' => self
                .moves
                .push(Move::Unlink(self.id(record.dir), record.name.clone())),
            b'R' => {
                let (from, to) = (self.id(record.dir), self.id(record.dir2));
                self.moves.push(Move::Rename(
                    from,
                    record.name.clone(),
                    to,
                    record.name2.clone(),
                ));
            }
            other => panic!("record {other}"),
        }
    }

    fn sync(&mut self, id: Id) {
        if self.nodes[id].is_dir {
            let (done, left): (Vec<Move>, Vec<Move>) = std::mem::take(&mut self.moves)
                .into_iter()
                .partition(|step| step.touches(id));
            done.iter().for_each(|step| step.apply(&mut self.names));
            self.moves = left;
        } else {
            let node = &mut self.nodes[id];
            for change in std::mem::take(&mut node.pending) {
                match change {
                    Change::Write(at, data) => write_at(&mut node.durable, at as usize, &data),
                    Change::Truncate(length) => node.durable.resize(length as usize, 0),
                }
            }
        }
    }

    /// The files after a cut.
    fn cut(&self, random: &mut Rng, to: &Path) {
        // A cache that kept nothing, everything, or anything between.
        let keeps: f64 = [0.0, 0.5, 0.9, 1.0][random.usize(..4)];
        let mut names = self.names.clone();
        let mut stopped = BTreeSet::new();
        for step in &self.moves {
            let dirs: Vec<Id> = match step {
                Move::Link(dir, ..) | Move::Unlink(dir, _) => vec![*dir],
                Move::Rename(from, _, to, _) => vec![*from, *to],
            };
            if dirs.iter().any(|dir| stopped.contains(dir)) || random.f64() > keeps.max(0.3) {
                stopped.extend(dirs);
            } else {
                step.apply(&mut names);
            }
        }
        self.write_out(self.root, &names, keeps, random, to);
    }

    fn write_out(
        &self,
        id: Id,
        names: &HashMap<Id, BTreeMap<String, Id>>,
        keeps: f64,
        random: &mut Rng,
        to: &Path,
    ) {
        if !self.nodes[id].is_dir {
            fs::write(to, self.content(id, keeps, random)).unwrap();
            return;
        }
        fs::create_dir_all(to).unwrap();
        for (name, child) in names.get(&id).into_iter().flatten() {
            self.write_out(*child, names, keeps, random, &to.join(name));
        }
    }

    fn content(&self, id: Id, keeps: f64, random: &mut Rng) -> Vec<u8> {
        let mut content = self.nodes[id].durable.clone();
        for change in &self.nodes[id].pending {
            match change {
                Change::Truncate(length) if random.f64() < keeps => {
                    content.resize(*length as usize, 0);
                }
                Change::Truncate(_) => {}
                Change::Write(at, data) => {
                    let at = *at as usize;
                    let mut from = at;
                    while from < at + data.len() {
                        let to = ((from / PAGE + 1) * PAGE).min(at + data.len());
                        let piece = &data[from - at..to - at];
                        if random.f64() < keeps {
                            write_at(&mut content, from, piece);
                        } else if random.u8(..4) == 0 {
                            let torn = random.usize(..PAGE / SECTOR) * SECTOR;
                            write_at(&mut content, from, &piece[..torn.min(piece.len())]);
                        }
                        from = to;
                    }
                }
            }
        }
        content
    }
}

fn write_at(content: &mut Vec<u8>, at: usize, data: &[u8]) {
    if content.len() < at + data.len() {
        content.resize(at + data.len(), 0);
    }
    content[at..at + data.len()].copy_from_slice(data);
}

/// The tracer, built once by the C compiler that Rust links with.
fn tracer(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power/trace.c");
    let library = folder.join("trace.so");
    let (code, _, error) = super::support::run(
        Command::new("gcc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(source)
            .args(["-ldl", "-lpthread"]),
    );
    assert_eq!(code, Some(0), "{error}");
    library
}

/// The file operations of the child of the kill -9 test below `folder`, for a number of commits.
fn trace(library: &Path, folder: &Path, log: &Path, commits: u32) -> Vec<Record> {
    let _ = fs::remove_file(log);
    let status = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "crash::child_that_appends_until_it_is_killed",
            "--nocapture",
        ])
        .env(super::crash::FOLDER, folder)
        .env(super::crash::COMMITS, commits.to_string())
        .env("LD_PRELOAD", library)
        .env("TRACE_ROOT", folder)
        .env("TRACE_LOG", log)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    records(&fs::read(log).unwrap())
}

/// The output of the child up to some moment.
#[derive(Default, Clone)]
struct Promised {
    durable: BTreeSet<u64>,
    settled: u64,
}

impl Promised {
    fn hear(&mut self, said: &[u8]) {
        for line in String::from_utf8_lossy(said).lines() {
            if let Some(numbers) = line.strip_prefix("durable ") {
                self.durable.extend(
                    numbers
                        .split(' ')
                        .filter_map(|number| number.parse::<u64>().ok()),
                );
            }
            self.settled = line
                .strip_prefix("settled ")
                .and_then(|text| text.parse().ok())
                .unwrap_or(self.settled);
        }
    }
}

/// Opens the files after a cut, and compares them with the promises. Returns the promises that hold
/// from here on.
fn check(folder: &Path, promised: &Promised, told: &str) -> Promised {
    let mut journal =
        Journal::open(folder, PARTITION).unwrap_or_else(|error| panic!("{told}: {error}"));
    let low = journal.cursor().low();
    let newest = promised.durable.last().copied().unwrap_or(0);
    assert!(
        journal.next_seq() > newest,
        "{told}: number {} would be given out again",
        journal.next_seq()
    );
    // Entries settled just before the cut were not reported yet.
    assert!(
        low <= promised.settled.max(newest) + 100,
        "{told}: {low} counts as settled"
    );
    let found = super::crash::drain(&mut journal);
    let missing: Vec<&u64> = promised
        .durable
        .range(low + 1..)
        .filter(|seq| !found.contains(seq))
        .collect();
    assert!(missing.is_empty(), "{told}: {missing:?} were durable");
    assert_eq!(journal.lost(), 0, "{told}");
    // The journal works.
    let seq = journal
        .append(&[Bytes::copy_from_slice(&journal.next_seq().to_be_bytes())])
        .unwrap();
    drop(journal);
    let mut journal = Journal::open(folder, PARTITION).unwrap();
    let durable = super::crash::drain(&mut journal);
    assert!(durable.contains(&seq), "{told}");
    Promised {
        durable,
        settled: journal.cursor().low(),
    }
}

#[test]
fn power_cuts_lose_no_durable_entry_and_never_prevent_a_start() {
    let (rounds, cuts) = if std::env::var_os("WELLHEAD_LONG").is_some() {
        (25, 24)
    } else {
        (3, 12)
    };
    let workshop = tempfile::tempdir().unwrap();
    let library = tracer(workshop.path());
    let mut random = Rng::with_seed(3);
    let mut folder = workshop.path().join("0");
    fs::create_dir(&folder).unwrap();
    let (mut played, mut rotations) = (0, 0);
    let mut base = Promised::default();
    for round in 0..rounds {
        let before = Disk::of(&folder);
        let records = trace(&library, &folder, &workshop.path().join("log"), 1500);
        // A third of the cuts hit the opening.
        let opened = records
            .iter()
            .position(|record| record.kind == b'A' && record.data.starts_with(b"opened"))
            .unwrap_or(records.len());
        let mut moments: Vec<usize> = (0..cuts)
            .map(|n| {
                if n % 3 == 0 {
                    random.usize(..opened.max(1))
                } else {
                    random.usize(..records.len())
                }
            })
            .collect();
        moments.sort_unstable();
        rotations += records
            .iter()
            .filter(|record| record.kind == b'R' && record.name2.starts_with("p-3-"))
            .count();
        let mut disk = before;
        let mut promised = base.clone();
        let mut at = 0;
        let mut next = None;
        for (number, moment) in moments.iter().enumerate() {
            for record in &records[at..*moment] {
                if record.kind == b'A' {
                    promised.hear(&record.data);
                } else {
                    disk.apply(record);
                }
            }
            at = *moment;
            let image = workshop.path().join(format!("{}-{number}", round + 1));
            disk.cut(&mut random, &image);
            let left = check(
                &image,
                &promised,
                &format!("round {round}, cut at record {moment} of {}", records.len()),
            );
            played += 1;
            // The next round begins where one of these cuts left off.
            if number == cuts / 2 {
                next = Some((image, left));
            } else {
                fs::remove_dir_all(&image).unwrap();
            }
        }
        fs::remove_dir_all(&folder).unwrap();
        (folder, base) = next.unwrap();
    }
    println!("{played} power cuts, {rotations} partitions");
    assert!(rotations > 2 * rounds);
}
