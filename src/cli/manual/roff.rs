//! gateway.yaml(5): the settings of the YAML file in the language of man(7). A section for each
//! mapping, a paragraph for each key.

use std::fmt::Write as _;

use super::settings::{KindPart, Section, SettingKind, settings};

/// The page.
pub(super) fn page(version: &str) -> String {
    let settings = settings();
    let mut page = RoffPage { out: String::new() };
    page.put(&format!(
        ".TH gateway.yaml 5 \"\" \"wellhead {version}\"\n.SH NAME\ngateway.yaml \\- configuration of the edge gateway wellhead\n"
    ));
    page.put(".SH SYNOPSIS\n");
    page.text("./gateway.yaml, /etc/wellhead/gateway.yaml");
    page.put(".SH DESCRIPTION\n");
    page.text("One YAML file says which instruments there are, what the local broker offers, and where messages go. An annotated file with every key is in /usr/share/doc/wellhead/examples/gateway.yaml. `wellhead check` finds every mistake in a file and says what the gateway will do with it; `wellhead reload` takes a changed file over without a restart.");
    page.put(".PP\n");
    page.text("Durations and sizes have a unit. Texts may refer to ${env:NAME} and ${credential:NAME}. Relative paths begin at the folder of the file.");
    for (at, section) in settings.sections.iter().enumerate() {
        let title = if at == 0 {
            section.title.to_uppercase()
        } else {
            section.title.clone()
        };
        page.section(&title, section);
    }
    page.put(".SH VALUES\n");
    for value in &settings.values {
        page.put(&format!(".TP\n\\fB{}\\fR\n", value.name));
        page.text(&format!(
            "{} Such as {}.",
            value.text,
            value.examples.join(" or ")
        ));
    }
    page.put(".SH \"SEE ALSO\"\nwellhead(1), wellhead\\-check(1), wellhead\\-reload(1)\n");
    page.out
}

struct RoffPage {
    out: String,
}

impl RoffPage {
    fn put(&mut self, text: &str) {
        self.out.push_str(text);
    }

    /// Text of a paragraph: nothing in it is taken for a command.
    fn text(&mut self, text: &str) {
        for line in text.lines() {
            let escaped = escaped(line.trim());
            let guard = if escaped.starts_with(['.', '\'']) {
                "\\&"
            } else {
                ""
            };
            // Writing to a text cannot fail.
            let _ = writeln!(self.out, "{guard}{escaped}");
        }
    }

    fn section(&mut self, title: &str, section: &Section) {
        self.put(&format!(
            ".SH \"{}\"\n",
            title.replace('"', "").replace('-', "\\-")
        ));
        for entry in &section.entries {
            let must = if entry.is_required { ", required" } else { "" };
            self.put(&format!(
                ".TP\n\\fB{}\\fR ({}{must})\n",
                entry.key.replace('-', "\\-"),
                escaped(&words(&entry.kind))
            ));
            self.text(&entry.text);
        }
    }
}

fn words(kind: &SettingKind) -> String {
    let word = |part: &KindPart| match part {
        KindPart::Words(text) | KindPart::Value(text) => text.clone(),
        KindPart::Section(title) => format!("see {title}"),
    };
    kind.0.iter().map(word).collect()
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}
