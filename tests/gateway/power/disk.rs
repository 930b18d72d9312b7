//! What a process does to its files, as `tests/power/trace.c` records it, and what is left of that
//! after a power cut.
//!
//! A cut is a moment in that record. Of a file, the synced part is there; of the rest each page of
//! 4 KiB is there, or not, or torn at 512 bytes. Of a directory, the synced entries are there, and
//! the first few of the later changes, in their order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use fastrand::Rng;

const PAGE: usize = 4096;
const SECTOR: usize = 512;

#[derive(Debug)]
pub struct Record {
    pub kind: u8,
    inode: u64,
    dir: u64,
    dir2: u64,
    offset: u64,
    name: String,
    pub name2: String,
    pub data: Vec<u8>,
}

/// The records of a process. The last one may be there in part, if the process was killed as it
/// wrote it: then it did not happen.
pub fn records(bytes: &[u8]) -> Vec<Record> {
    let mut rest = bytes;
    std::iter::from_fn(|| next_record(&mut rest)).collect()
}

fn next_record(rest: &mut &[u8]) -> Option<Record> {
    let mut take = |n: usize| {
        let (head, tail) = rest.split_at_checked(n)?;
        *rest = tail;
        Some(head)
    };
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let kind = take(1)?[0];
    let mut numbers = [0; 4];
    for value in &mut numbers {
        *value = number(take(8)?);
    }
    let [inode, dir, dir2, offset] = numbers;
    let length = number(take(4)?);
    let mut text = || {
        let length = number(take(2)?) as usize;
        Some(String::from_utf8(take(length)?.to_vec()).unwrap())
    };
    let (name, name2) = (text()?, text()?);
    let data = take(length as usize)?.to_vec();
    Some(Record {
        kind,
        inode,
        dir,
        dir2,
        offset,
        name,
        name2,
        data,
    })
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
pub struct Disk {
    nodes: Vec<Node>,
    by_inode: HashMap<u64, Id>,
    root: Id,
    /// Durable directories.
    names: HashMap<Id, BTreeMap<String, Id>>,
    moves: Vec<Move>,
}

impl Disk {
    /// A folder, all of it durable.
    pub fn of(folder: &Path) -> Self {
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

    pub fn apply(&mut self, record: &Record) {
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
    pub fn cut(&self, random: &mut Rng, to: &Path) {
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
pub fn tracer(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power/trace.c");
    let library = folder.join("trace.so");
    let (code, _, error) = crate::support::run(
        Command::new("gcc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(source)
            .args(["-ldl", "-lpthread"]),
    );
    assert_eq!(code, Some(0), "{error}");
    library
}
