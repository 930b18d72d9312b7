//! Plain instruments: how they talk, and where their values stand.

use std::time::Duration;

use super::field::Context;
use super::{Check, at};
use crate::config::document::Step;
use crate::config::file::{self, OneOrMore};
use crate::field::decode::{Kind, Table};
use crate::field::text::Talk;
use crate::field::text::bytes::Template;
use crate::field::text::parse::{Found, Place};
use crate::field::text::script::Pattern;
use crate::field::{Line, Source, Wire};

const DEFAULT_POLL: Duration = Duration::from_secs(10);
const DEFAULT_SILENCE: Duration = Duration::from_secs(60);

impl Context<'_> {
    /// Where a key of the section `text` stands.
    fn text_path(&self, key: &str) -> Vec<Step> {
        match &self.device.profile {
            Some(profile) if self.device.text.is_none() => at!["profiles", profile, "text", key].to_vec(),
            _ => at!["devices", self.index, "text", key].to_vec(),
        }
    }

    fn text(&self) -> Option<&file::Text> {
        self.device.text.as_ref().or(self.profile.and_then(|profile| profile.text.as_ref()))
    }

    /// How a plain instrument talks; notes what does not fit its line.
    pub(super) fn talk(&self, check: &mut Check<'_>, line: &Line) -> Option<Talk> {
        let here = at!["devices", self.index, "line"];
        if !self.is_text {
            if matches!(line.wire, Wire::Tcp(_)) || line.devices.iter().any(|other| other.talk.is_some()) {
                check.fault(
                    &here,
                    format!("line {} has plain instruments; give the device `each_line:` or `text:`, or put it on another line", line.name),
                );
            }
            return None;
        }
        if !matches!(line.wire, Wire::Serial(_) | Wire::Tcp(_) | Wire::Simulated) {
            check.fault(&here, format!("line {} speaks Modbus; a plain instrument needs `serial:` or `tcp:`", line.name));
        }
        if line.devices.iter().any(|other| other.talk.is_none()) {
            check.fault(&here, format!("line {} has Modbus devices; put plain instruments on a line of their own", line.name));
        }
        let default = file::Text {
            request: None,
            script: Vec::new(),
            every: None,
            silent_after: None,
            frame: None,
            checksum: None,
            subtract: None,
            pattern: None,
            simulate: None,
        };
        let text = self.text().unwrap_or(&default);
        let framing = text.frame.clone().unwrap_or_default();
        if let Err(why) = framing.check() {
            check.fault(&self.text_path("frame"), why);
        }
        if self.device.each_line.is_some() && text.pattern.is_some() {
            check.fault(&at!["devices", self.index, "each_line"], "`each_line` and `match` say the same; keep one");
        }
        let requests: Vec<_> = text.request.clone().map(|OneOrMore(list)| list).unwrap_or_default();
        let is_polled = !requests.is_empty() || !text.script.is_empty();
        let address = self.device.address.clone().or_else(|| self.device.unit.map(|unit| unit.to_string()));
        self.check_names(check, text, address.is_some());
        self.check_simulated(check, text);
        let (every, key) = if is_polled { (text.every, "silent_after") } else { (text.silent_after, "every") };
        let is_useless = if is_polled { text.silent_after.is_some() } else { text.every.is_some() };
        if is_useless {
            let why =
                if is_polled { "an instrument that is asked has `every`" } else { "an instrument that talks by itself has `silent_after`" };
            check.fault(&self.text_path(key), why);
        }
        Some(Talk {
            requests,
            script: text.script.clone(),
            every: every.map_or(if is_polled { DEFAULT_POLL } else { DEFAULT_SILENCE }, |span| span.0),
            framing,
            checksum: text.checksum,
            subtract: text.subtract,
            pattern: self.device.each_line.clone().or_else(|| text.pattern.clone()),
            address: address.unwrap_or_default(),
            simulate: text.simulate.clone(),
        })
    }

    /// What a simulator fills in are points.
    fn check_simulated(&self, check: &mut Check<'_>, text: &file::Text) {
        let known: Vec<String> = self.points().into_iter().map(|(name, _)| name).collect();
        for name in text.simulate.iter().flat_map(Template::names) {
            if name != "checksum" && name != "address" && !known.iter().any(|known| known == name) {
                check.unknown(&self.text_path("simulate"), "point", name, &known);
            }
        }
    }

    fn check_names(&self, check: &mut Check<'_>, text: &file::Text, has_address: bool) {
        for request in text.request.iter().flat_map(|list| &list.0) {
            for name in request.names() {
                match name {
                    "checksum" if text.checksum.is_none() => {
                        check.fault(&self.text_path("request"), "{checksum} needs `checksum:`, which says how it is made");
                    }
                    "address" if !has_address => check.fault(
                        &at!["devices", self.index],
                        format!("device \"{}\" is asked by its address; add `address: '...'`", self.device.name),
                    ),
                    _ => {}
                }
            }
        }
    }

    /// Where the value of a point stands in messages.
    pub(super) fn found(&self, check: &mut Check<'_>, name: &str, spec: &file::Point) -> Option<Source> {
        if self.simulated {
            return Some(Source::Made);
        }
        let given = [spec.from.is_some(), spec.find.is_some(), spec.byte.is_some()];
        if given.iter().filter(|given| **given).count() > 1 {
            check.fault(&self.path(name, "from"), format!("point \"{name}\" says twice where it is; keep one of from, find and byte"));
        }
        let has_register = [spec.at.is_some(), spec.holding.is_some(), spec.input.is_some(), spec.coil.is_some(), spec.discrete.is_some()];
        if has_register.contains(&true) {
            check.fault(&self.path(name, "at"), "a plain instrument has no registers; write from, find or byte");
        }
        let mut typed = spec.clone();
        let place = match (&spec.find, spec.byte) {
            (Some(pattern), _) => Place::Find(pattern.clone()),
            (None, Some(at)) => Place::Byte(at),
            (None, None) => self.group(check, name, spec)?,
        };
        if !matches!(place, Place::Byte(_)) {
            // Text brings its own length; a number in it may have decimals.
            typed.kind = typed.kind.or(Some(Kind::F64));
            typed.length = typed.length.or_else(|| (typed.kind == Some(Kind::Text)).then_some(1));
        }
        let meaning = self.meaning(check, name, &typed, Table::Holding)?;
        Some(Source::Found(Box::new(Found { place, when: spec.when.clone(), meaning })))
    }

    /// The group of the pattern that a point is named after, or names.
    fn group(&self, check: &mut Check<'_>, name: &str, spec: &file::Point) -> Option<Place> {
        let group = spec.from.as_deref().unwrap_or(name);
        let pattern: Option<&Pattern> = self.device.each_line.as_ref().or_else(|| self.text().and_then(|text| text.pattern.as_ref()));
        let known: Vec<String> = pattern.iter().flat_map(|pattern| pattern.0.capture_names().flatten()).map(str::to_owned).collect();
        if known.iter().any(|known| known == group) {
            return Some(Place::Group(group.to_owned()));
        }
        if known.is_empty() {
            check.missing(
                &self.path(name, "from"),
                format!("point \"{name}\" says not where it is; name it in the pattern as (?P<{name}>...), or add `find:` or `byte:`"),
            );
        } else {
            check.unknown(&self.path(name, "from"), "group", group, &known);
        }
        None
    }
}
