//! Recognises the machine, so that a copy of a folder on another one is noticed.
//!
//! A copied memory card brings `/etc/machine-id` along, so built-in hardware counts first: the
//! serial number of the board, else the permanent address of the first network card that is no USB
//! device, else the machine identifier. Hardware that comes and goes (USB dongles, virtual
//! interfaces, random addresses) does not count.

use std::fs;
use std::path::Path;

/// Serial numbers of boards: of the device tree (Raspberry Pi and most ARM boards), and of a PC,
/// where only root may read them.
const SERIALS: [&str; 4] = [
    "sys/firmware/devicetree/base/serial-number",
    "sys/class/dmi/id/product_uuid",
    "sys/class/dmi/id/board_serial",
    "sys/class/dmi/id/product_serial",
];
/// Placeholders of makers that assign no number.
const NO_NUMBERS: [&str; 6] = [
    "none",
    "default string",
    "to be filled by o.e.m.",
    "not specified",
    "system serial number",
    "0123456789",
];

/// The identity of a machine; each part is a checksum, so that the numbers themselves stay private.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Machine {
    board: Option<String>,
    card: Option<String>,
    id: Option<String>,
}

impl Machine {
    /// The machine whose files are below `root`.
    pub(super) fn of(root: &Path) -> Self {
        let read = |name: &str| fs::read_to_string(root.join(name)).ok();
        let number = |text: String| {
            let text = text
                .trim_matches(|c: char| c.is_whitespace() || c == '\0')
                .to_ascii_lowercase();
            let is_none = text.is_empty()
                || NO_NUMBERS.contains(&text.as_str())
                || text.chars().all(|c| matches!(c, '0' | '-' | 'f'));
            (!is_none).then_some(text)
        };
        Self {
            board: SERIALS
                .into_iter()
                .find_map(|name| read(name).and_then(number))
                .map(|text| short(&text)),
            card: card(root).map(|address| short(&address)),
            id: read("etc/machine-id")
                .and_then(number)
                .map(|text| short(&text)),
        }
    }

    /// One word, for [`Machine::parse`].
    pub(super) fn text(&self) -> String {
        let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "-".to_owned());
        format!(
            "{}/{}/{}",
            part(&self.board),
            part(&self.card),
            part(&self.id)
        )
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text
            .split('/')
            .map(|part| Some(part.to_owned()).filter(|part| part != "-"));
        let machine = Self {
            board: parts.next()?,
            card: parts.next()?,
            id: parts.next()?,
        };
        parts.next().is_none().then_some(machine)
    }

    /// True if the two are certainly different ones: the first part that is known of both decides.
    pub(super) fn is_another_than(&self, other: &Self) -> bool {
        let pairs = [
            (&self.board, &other.board),
            (&self.card, &other.card),
            (&self.id, &other.id),
        ];
        pairs
            .into_iter()
            .find_map(|(one, other)| Some(one.as_ref()? != other.as_ref()?))
            .unwrap_or(false)
    }

    /// With the parts known before that cannot be read now.
    pub(super) fn or(self, before: &Self) -> Self {
        Self {
            board: self.board.or_else(|| before.board.clone()),
            card: self.card.or_else(|| before.card.clone()),
            id: self.id.or_else(|| before.id.clone()),
        }
    }
}

/// The permanent address of the first network card, in the order of their places in the machine.
fn card(root: &Path) -> Option<String> {
    let mut cards = Vec::new();
    for entry in fs::read_dir(root.join("sys/class/net"))
        .ok()?
        .filter_map(Result::ok)
    {
        let folder = entry.path();
        let read = |name: &str| {
            fs::read_to_string(folder.join(name))
                .map(|text| text.trim().to_owned())
                .ok()
        };
        // Virtual interfaces have no device, and drawn addresses are of another kind.
        let Ok(device) = fs::canonicalize(folder.join("device")) else {
            continue;
        };
        let is_usb = device
            .components()
            .any(|part| part.as_os_str().to_string_lossy().starts_with("usb"));
        let is_wireless = folder.join("wireless").exists() || folder.join("phy80211").exists();
        let is_permanent = read("addr_assign_type").as_deref() == Some("0");
        if !is_usb && is_permanent {
            cards.extend(read("address").map(|address| (is_wireless, device, address)));
        }
    }
    cards.sort();
    cards.into_iter().next().map(|(.., address)| address)
}

fn short(text: &str) -> String {
    format!("{:08x}", crc32c::crc32c(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A machine with these files; network cards are `name place address`.
    fn machine(files: &[(&str, &str)], cards: &[&str]) -> Machine {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = root.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        for card in cards {
            let [name, place, address] = card.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{card}")
            };
            let (folder, device) = (
                root.path().join("sys/class/net").join(name),
                root.path().join("sys/devices").join(place),
            );
            fs::create_dir_all(&folder).unwrap();
            fs::create_dir_all(&device).unwrap();
            symlink(&device, folder.join("device")).unwrap();
            fs::write(folder.join("address"), address).unwrap();
            fs::write(folder.join("addr_assign_type"), "0\n").unwrap();
        }
        Machine::of(root.path())
    }

    const ID: (&str, &str) = ("etc/machine-id", "aaaaaaaa\n");

    #[test]
    fn a_copied_card_in_another_board_is_another_machine() {
        let pi = |serial| machine(&[ID, (SERIALS[0], serial)], &[]);
        assert!(pi("10000000abcdef01\0").is_another_than(&pi("10000000abcdef02\0")));
        assert!(!pi("10000000abcdef01\0").is_another_than(&pi("10000000abcdef01\0")));
        let pc = |address: &str| {
            machine(
                &[ID, (SERIALS[1], "Default string\n")],
                &[&format!("eth0 pci0000:00/0000:00:1f.6 {address}")],
            )
        };
        assert!(pc("02:00:00:00:00:01").is_another_than(&pc("02:00:00:00:00:02")));
        assert!(machine(&[ID], &[]).is_another_than(&machine(&[("etc/machine-id", "b")], &[])));
    }

    #[test]
    fn what_comes_and_goes_changes_no_machine() {
        let plain = machine(
            &[ID],
            &["eth0 platform/fd580000.ethernet 02:00:00:00:00:01"],
        );
        let dongle = [
            "aaa0 platform/usb1/1-1/1-1:1.0 02:00:00:00:00:09",
            "eth0 platform/fd580000.ethernet 02:00:00:00:00:01",
        ];
        assert_eq!(machine(&[ID], &dongle), plain);
        // A new system on the same board, and one that may not read the serial number.
        let board = |id| machine(&[("etc/machine-id", id), (SERIALS[0], "77")], &[]);
        assert!(!board("aaaaaaaa").is_another_than(&board("bbbbbbbb")));
        assert!(!machine(&[ID], &[]).is_another_than(&board("aaaaaaaa")));
        assert_eq!(
            machine(&[ID], &[]).or(&board("aaaaaaaa")),
            board("aaaaaaaa")
        );
        assert!(!Machine::default().is_another_than(&board("aaaaaaaa")));
    }

    #[test]
    fn what_is_written_is_read() {
        for machine in [
            Machine::default(),
            machine(&[ID, (SERIALS[0], "77")], &["eth0 x 02:00:00:00:00:01"]),
        ] {
            assert_eq!(Machine::parse(&machine.text()), Some(machine));
        }
        assert_eq!(Machine::parse("a/b"), None);
    }
}
