//! Files named in the YAML or on the command line: certificates, passwords, parts of the
//! configuration.
//!
//! Invariants:
//! * Only regular files are opened: a fifo or a device could block for ever, or never end.
//! * Links are followed for reading only.
//! * No more than a limit is read, whatever the file says of its size.
//! * Errors name the fault of the file and show nothing of its content.

use std::fs::{self, File, Metadata};
use std::io::{self, Error, ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Largest text: a hundred thousand long lines.
pub const LARGEST_TEXT: u64 = 16 << 20;
/// Largest file with a secret in it.
pub const LARGEST_SECRET: u64 = 64 << 10;
/// The number of /dev/null.
const NULL: u64 = (1 << 8) | 3;
/// Written by some editors before a text.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Opens a regular file for reading.
pub fn open(path: &Path) -> io::Result<File> {
    // Checked before it is opened: opening alone has effects on some devices.
    is_regular(&fs::metadata(path)?)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    is_regular(&file.metadata()?)?;
    Ok(file)
}

/// The content of a regular file of at most `most` bytes.
pub fn bytes(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open(path)?
        .take(most.saturating_add(1))
        .read_to_end(&mut content)?;
    if u64::try_from(content.len()).map_or(true, |length| length > most) {
        return Err(Error::new(
            ErrorKind::FileTooLarge,
            format!("larger than {}", bytesize::ByteSize(most).display().iec()),
        ));
    }
    Ok(content)
}

/// Writes over a regular file, or makes a new one. A link is an error: what it leads to may be
/// another's.
pub fn write_over(path: &Path, content: &[u8]) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        found => is_regular(&found?)?,
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = flags | OFlags::NOCTTY | OFlags::CLOEXEC;
    // Less what the umask forbids.
    let mode = Mode::from_raw_mode(0o666);
    let mut file = File::from(rustix::fs::open(path, flags, mode)?);
    let found = file.metadata()?;
    is_regular(&found)?;
    if found.is_file() {
        file.set_len(0)?;
    }
    file.write_all(content)
}

/// The content of a text file, without a byte order mark. Other text than UTF-8 is an error of the
/// kind `InvalidData`.
pub fn text(path: &Path) -> io::Result<String> {
    decoded(bytes(path, LARGEST_TEXT)?).map(|text| without_mark(text).0)
}

fn decoded(content: Vec<u8>) -> io::Result<String> {
    let is_utf_16 = content.starts_with(&[0xFF, 0xFE]) || content.starts_with(&[0xFE, 0xFF]);
    let what = if is_utf_16 {
        "UTF-16 text, save it as UTF-8"
    } else {
        "not UTF-8 text, save it as UTF-8"
    };
    String::from_utf8(content).map_err(|_| Error::new(ErrorKind::InvalidData, what))
}

fn without_mark(text: String) -> (String, bool) {
    match text.strip_prefix(BYTE_ORDER_MARK) {
        Some(rest) => (rest.to_owned(), true),
        None => (text, false),
    }
}

/// A secret out of a file of its own, with remarks on its form.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// The secret itself.
    pub text: String,
    /// For the operator; without the secret.
    pub remarks: Vec<&'static str>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret")
            .field("remarks", &self.remarks)
            .finish_non_exhaustive()
    }
}

/// The secret in the first line of a file. An empty one is an error of the kind `InvalidData`.
pub fn first_line(path: &Path) -> io::Result<Secret> {
    secret(path, |text| text.lines().next().unwrap_or_default())
}

/// The secret that is a whole file, without the line break at its end. An empty one is an error of
/// the kind `InvalidData`.
pub fn whole(path: &Path) -> io::Result<Secret> {
    secret(path, |text| text)
}

fn secret(path: &Path, part: impl Fn(&str) -> &str) -> io::Result<Secret> {
    let (text, had_mark) = without_mark(decoded(bytes(path, LARGEST_SECRET)?)?);
    let text = part(&text).trim_end_matches(['\r', '\n']).to_owned();
    if text.trim().is_empty() {
        let what = if text.is_empty() {
            "its first line is empty, write the secret there"
        } else {
            "its first line is blank, write the secret there"
        };
        return Err(Error::new(ErrorKind::InvalidData, what));
    }
    let mut remarks = Vec::new();
    if had_mark {
        remarks.push("this file begins with a byte order mark, which is left out; save it as UTF-8 without one");
    }
    if text.starts_with(char::is_whitespace) {
        remarks.push("the secret in this file begins with a blank, which is part of it; remove the blank if it is not meant");
    }
    if text.ends_with(char::is_whitespace) {
        remarks.push("the secret in this file ends with a blank, which is part of it; remove the blank if it is not meant");
    }
    Ok(Secret { text, remarks })
}

fn is_regular(found: &Metadata) -> io::Result<()> {
    let kind = found.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(()),
        // /dev/null: the one device that is an empty file.
        () if kind.is_char_device() && found.rdev() == NULL => return Ok(()),
        () if kind.is_symlink() => "a symbolic link",
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(Error::new(
        ErrorKind::InvalidInput,
        format!("{what}, not a regular file"),
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("pipe"),
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink(at("pipe"), at("link")).unwrap();
        let told = |path: &Path| text(path).unwrap_err().to_string();
        assert_eq!(told(&at("pipe")), "a pipe, not a regular file");
        assert_eq!(told(&at("link")), "a pipe, not a regular file");
        assert_eq!(told(&at("socket")), "a socket, not a regular file");
        assert_eq!(told(folder.path()), "a folder, not a regular file");
        assert_eq!(told(Path::new("/dev/zero")), "a device, not a regular file");
        File::create(at("huge")).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(told(&at("huge")), "larger than 16.0 MiB");
        assert_eq!(
            first_line(&at("huge")).unwrap_err().to_string(),
            "larger than 64.0 KiB"
        );
        assert_eq!(text(Path::new("/dev/null")).unwrap(), "");
        // A file of the kernel says that its size is 0.
        assert!(
            text(Path::new("/proc/self/status"))
                .unwrap()
                .contains("Name:")
        );
    }

    #[test]
    fn only_regular_files_are_written_over_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write_over(&at("new"), b"a long text").unwrap();
        write_over(&at("new"), b"short").unwrap();
        assert_eq!(fs::read(at("new")).unwrap(), b"short");
        fs::write(at("other"), "untouched").unwrap();
        for (link, to) in [("link", "other"), ("dangling", "nothing")] {
            std::os::unix::fs::symlink(at(to), at(link)).unwrap();
            let error = write_over(&at(link), b"x").unwrap_err();
            assert_eq!(error.to_string(), "a symbolic link, not a regular file");
        }
        assert_eq!(fs::read(at("other")).unwrap(), b"untouched");
        assert!(!at("nothing").exists());
        assert!(write_over(folder.path(), b"x").is_err());
        write_over(Path::new("/dev/null"), b"x").unwrap();
    }

    #[test]
    fn secrets_are_read_without_marks_and_line_ends_and_what_is_odd_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        let read = |content: &[u8]| {
            fs::write(&path, content).unwrap();
            first_line(&path)
                .map(|secret| (secret.text, secret.remarks.len()))
                .map_err(|error| error.to_string())
        };
        assert_eq!(read(b"secret\nsecond\n"), Ok(("secret".to_owned(), 0)));
        assert_eq!(read(b"secret\r\n"), Ok(("secret".to_owned(), 0)));
        assert_eq!(read(b"secret\r"), Ok(("secret".to_owned(), 0)));
        assert_eq!(
            read("\u{feff}secret\n".as_bytes()),
            Ok(("secret".to_owned(), 1))
        );
        assert_eq!(read(b" two words \n"), Ok((" two words ".to_owned(), 2)));
        for nothing in [
            &b""[..],
            b"\n",
            b"\r\nsecret\n",
            b"  \n",
            "\u{feff}\n".as_bytes(),
        ] {
            assert!(
                read(nothing)
                    .unwrap_err()
                    .contains("write the secret there"),
                "{nothing:?}"
            );
        }
        assert_eq!(
            read(&[0xFF, 0xFE, b's', 0]),
            Err("UTF-16 text, save it as UTF-8".to_owned())
        );
        assert_eq!(
            read(&[0xE9, b'\n']),
            Err("not UTF-8 text, save it as UTF-8".to_owned())
        );
        fs::write(&path, "two\nlines\n\n").unwrap();
        assert_eq!(whole(&path).unwrap().text, "two\nlines");
        assert!(
            !format!("{:?}", whole(&path).unwrap()).contains("lines"),
            "a secret is not printed"
        );
    }
}
