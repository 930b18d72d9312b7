//! Plain instruments: how they talk, and where their values stand.

use std::sync::Arc;
use std::time::Duration;

use super::field::Context;
use super::unused::Shape;
use super::{Check, at};
use crate::config::SetBy;
use crate::config::document::Step;
use crate::config::file::{self, OneOrMore};
use crate::config::telegrams;
use crate::field::decode::{Kind, Meaning, Table};
use crate::field::text::Talk;
use crate::field::text::bytes::Template;
use crate::field::text::checksum::Checksum;
use crate::field::text::frame::Framing;
use crate::field::text::parse::{Found, Notation, Place, UNIT};
use crate::field::text::script::{Pattern, Step as ScriptStep};
use crate::field::text::telegram::Placeholder;
use crate::field::{Line, Source, Wire};

const DEFAULT_POLL: Duration = Duration::from_secs(10);
const DEFAULT_SILENCE: Duration = Duration::from_secs(60);

impl Context<'_> {
    /// Where a key of the section `text` stands.
    fn text_path(&self, key: &str) -> Vec<Step> {
        match &self.device.profile {
            Some(profile) if self.device.text.is_none() => {
                at!["profiles", profile, "text", key].to_vec()
            }
            _ => at!["devices", self.index, "text", key].to_vec(),
        }
    }

    /// That of the profile, overridden key by key.
    fn text(&self) -> file::Text {
        let base = self.profile.and_then(|profile| profile.text.as_ref());
        match (&self.device.text, base) {
            (Some(own), Some(base)) => own.over(base),
            (Some(text), None) | (None, Some(text)) => text.clone(),
            (None, None) => file::Text::default(),
        }
    }

    /// How a plain instrument talks; notes what does not fit its line.
    pub(super) fn talk(&self, check: &mut Check<'_>, line: &Line) -> Option<Talk> {
        let here = at!["devices", self.index, "line"];
        if !self.is_text {
            if matches!(line.wire, Wire::Tcp(_))
                || !self.simulated && line.devices.iter().any(|other| other.talk.is_some())
            {
                check.fault(
                    &here,
                    format!("line {} has plain instruments; give the device `each_line:` or `text:`, or put it on another line", line.name),
                );
            }
            return None;
        }
        if !matches!(line.wire, Wire::Serial(_) | Wire::Tcp(_) | Wire::Simulated) {
            check.fault(
                &here,
                format!(
                    "line {} speaks Modbus; a plain instrument needs `serial:` or `tcp:`",
                    line.name
                ),
            );
        }
        if !self.simulated && line.devices.iter().any(|other| other.talk.is_none()) {
            check.fault(
                &here,
                format!(
                    "line {} has Modbus devices; put plain instruments on a line of their own",
                    line.name
                ),
            );
        }
        let text = self.text();
        let checksum = text.checksum.as_ref().map_or(0, Checksum::length);
        let framing = text
            .frame
            .clone()
            .map_or_else(Framing::default, |frame| frame.framing(checksum));
        if let Err(why) = framing.check() {
            check.fault(&self.text_path("frame"), why);
        }
        if let Some(Err(why)) = text.checksum.as_ref().map(Checksum::check) {
            check.fault(&self.text_path("checksum"), why);
        }
        if self.device.each_line.is_some() && text.pattern.is_some() {
            check.fault(
                &at!["devices", self.index, "each_line"],
                "`each_line` and `match` say the same; keep one",
            );
        }
        let requests: Vec<_> = text
            .request
            .clone()
            .map(|OneOrMore(list)| list)
            .unwrap_or_default();
        let script = text.script.clone().unwrap_or_default();
        let is_polled = !requests.is_empty() || !script.is_empty();
        let address = self
            .device
            .address
            .clone()
            .or_else(|| self.device.unit.map(|unit| unit.to_string()));
        self.check_names(check, &text, address.as_deref());
        self.check_simulated(check, &text);
        let typed = text
            .pattern
            .as_ref()
            .and_then(|typed| Pattern::new(&typed.text, address.as_deref()).ok());
        if !is_polled && self.device.every.is_some() {
            check.fault(
                &at!["devices", self.index, "every"],
                "an instrument that sends by itself is not asked; remove it",
            );
        }
        if !is_polled && text.every.is_some() {
            check.fault(
                &self.text_path("every"),
                "an instrument that sends by itself is not asked; write `silent_after` instead",
            );
        }
        self.check_talk_spans(check, &text);
        let silent_after = text.silent_after.map(|span| span.0);
        let every = if is_polled {
            self.asked_every().0.unwrap_or(DEFAULT_POLL)
        } else {
            silent_after.unwrap_or(DEFAULT_SILENCE)
        };
        let simulate = self.simulated(&text);
        Some(Talk {
            requests,
            script,
            every,
            // Of one that is asked: when three answers in a row lack a point.
            silent_after: silent_after.unwrap_or(if is_polled { every * 2 } else { every }),
            answer_within: text.answer_within.map(|span| span.0),
            framing,
            checksum: text.checksum,
            subtract: text.subtract,
            pattern: self.device.each_line.clone().or(typed),
            address: address.unwrap_or_default(),
            simulate,
        })
    }

    /// How often a plain instrument is asked, and who says so: the nearest that says it.
    pub(super) fn asked_every(&self) -> (Option<Duration>, SetBy) {
        let base = self.profile.and_then(|profile| profile.text.as_ref());
        let own = self.device.text.as_ref();
        let is_kept =
            |key: &str| own.is_none_or(|own| !own.removed.iter().any(|removed| removed == key));
        let [device, profile, line, defaults] =
            self.givers.map(|(set_by, given)| (given.every, set_by));
        let ways = [
            (own.and_then(|text| text.every), SetBy::Device),
            device,
            (
                base.and_then(|text| text.every)
                    .filter(|_| is_kept("every")),
                SetBy::Profile,
            ),
            profile,
            line,
            defaults,
        ];
        let said = ways.into_iter().find_map(|(every, set_by)| {
            every
                .filter(|every| !every.0.is_zero())
                .map(|every| (every.0, set_by))
        });
        said.map_or((None, SetBy::Default), |(every, set_by)| {
            (Some(every), set_by)
        })
    }

    /// Durations of zero that would never, or always, be over.
    fn check_talk_spans(&self, check: &mut Check<'_>, text: &file::Text) {
        check.not_zero(
            &self.text_path("every"),
            text.every,
            "write at least 1ms, such as 10s",
        );
        let silent_after = "with 0s the instrument would always count as silent; write a longer duration, such as 30s";
        check.not_zero(
            &self.text_path("silent_after"),
            text.silent_after,
            silent_after,
        );
        let answer_within =
            "no instrument answers at once; write a longer duration, such as 300ms, or remove it";
        check.not_zero(
            &self.text_path("answer_within"),
            text.answer_within,
            answer_within,
        );
        let silence = text.frame.as_ref().and_then(|frame| frame.silence);
        check.not_zero(
            &self.text_path("frame"),
            silence,
            "with a silence of 0 every byte would be a message; write a longer one, such as `silence: 20ms`",
        );
    }

    /// What a simulator says: as the file has it, else as instruments of a ready-made profile do.
    fn simulated(&self, text: &file::Text) -> Vec<Template> {
        let typed = text
            .simulate
            .as_ref()
            .map(|OneOrMore(messages)| messages.clone());
        let ready_made = self.device.profile.as_deref().filter(|_| !self.is_in_file);
        let is_taken_away = self
            .device
            .text
            .as_ref()
            .is_some_and(|own| own.removed.iter().any(|key| key == "simulate"));
        typed
            .or_else(|| {
                ready_made
                    .filter(|_| !is_taken_away)
                    .and_then(telegrams::of)
            })
            .unwrap_or_default()
    }

    /// What a simulator fills in are points; it says as much as is asked.
    fn check_simulated(&self, check: &mut Check<'_>, text: &file::Text) {
        let Some(OneOrMore(messages)) = &text.simulate else {
            return;
        };
        let path = self.text_path("simulate");
        let sent = text
            .script
            .iter()
            .flatten()
            .filter(|step| matches!(step.always(), ScriptStep::Send(_)))
            .count();
        let sent = sent
            + text
                .request
                .as_ref()
                .map_or(0, |OneOrMore(requests)| requests.len());
        let is_expected = text
            .script
            .iter()
            .flatten()
            .any(|step| matches!(step.always(), ScriptStep::Expect(_)));
        if messages.len() != sent && sent > 0 && (messages.len() != 1 || is_expected) {
            let message = format!(
                "this instrument gets {sent} requests; write a list of {sent} messages, one for each"
            );
            check.fault(&path, message);
        }
        let known: Vec<String> = self.known().keys().cloned().collect();
        for name in messages.iter().flat_map(Template::names) {
            match Placeholder::parse(name).map(|placeholder| placeholder.name()) {
                Err(why) => check.fault(&path, why),
                Ok(Some(name))
                    if name != "checksum"
                        && name != "address"
                        && !known.iter().any(|known| known == name) =>
                {
                    check.unknown(&path, "point", name, &known);
                }
                Ok(_) => {}
            }
        }
    }

    /// Every placeholder stands for something that is known when it is sent.
    fn check_names(&self, check: &mut Check<'_>, text: &file::Text, address: Option<&str>) {
        let mut groups: Vec<String> = Vec::new();
        let script = text.script.iter().flatten();
        let mut templates: Vec<(&Template, &str, Vec<String>)> = Vec::new();
        for step in script {
            let mut step = step;
            while let ScriptStep::If(name, inner) = step {
                if !groups.iter().any(|known| known == name) {
                    check.unknown(&self.text_path("script"), "group", name, &groups);
                }
                step = inner;
            }
            match step {
                ScriptStep::If(..) => {}
                ScriptStep::Send(template)
                | ScriptStep::Wait(template)
                | ScriptStep::Speed(template) => {
                    templates.push((template, "script", groups.clone()));
                }
                ScriptStep::Expect(pattern) => {
                    groups.extend(pattern.capture_names().flatten().map(str::to_owned));
                }
            }
        }
        let requests = text.request.iter().flat_map(|list| &list.0);
        templates.extend(requests.map(|request| (request, "request", groups.clone())));
        let mut needs_address = text
            .pattern
            .as_ref()
            .is_some_and(|typed| typed.text.contains("{address"));
        for (template, key, mut known) in templates {
            for name in template.names() {
                match name {
                    "checksum" if key == "script" || text.checksum.is_none() => check.fault(
                        &self.text_path(key),
                        "{checksum} is filled in only in `request`, and needs `checksum:` to say how it is computed",
                    ),
                    // The question mark: it may be missing.
                    "checksum" | "address?" => {}
                    "address" => {
                        needs_address = true;
                        let is_hex =
                            address.is_none_or(|address| address.len() % 2 == 0 && address.bytes().all(|byte| byte.is_ascii_hexdigit()));
                        if template.is_hex() && !is_hex {
                            check.fault(
                                &at!["devices", self.index, "address"],
                                "the request is made of bytes; write the address as pairs of digits, such as '123456789012'",
                            );
                        }
                    }
                    other if known.iter().any(|known| known == other) => {}
                    other => {
                        known.push("address".to_owned());
                        known.push("checksum".to_owned());
                        check.unknown(&self.text_path(key), "placeholder", other, &known);
                    }
                }
            }
        }
        if needs_address && address.is_none() {
            let delivered = self
                .profile
                .and_then(|profile| profile.factory.as_ref()?.address.as_ref()?.0.first());
            let remedy = delivered.map_or_else(
                || "'...'`".to_owned(),
                |usual| format!("'{usual}'`, as it is delivered, or its own"),
            );
            let message = format!(
                "device \"{}\" is asked by its address; add `address: {remedy}",
                self.device.name
            );
            check.fault(&at!["devices", self.index], message);
        }
    }

    /// Where the value of a point stands in messages.
    pub(super) fn found(
        &self,
        check: &mut Check<'_>,
        name: &str,
        spec: &file::Point,
    ) -> Option<Source> {
        if self.simulated {
            return Some(Source::Made);
        }
        let given = [
            spec.from.is_some(),
            spec.find.is_some(),
            spec.byte.is_some(),
        ];
        if given.iter().filter(|given| **given).count() > 1 {
            check.fault(
                &self.path(name, "from"),
                format!("point \"{name}\" says twice where its value is; keep one of from, find and byte"),
            );
        }
        let has_register = [
            spec.at.is_some(),
            spec.holding.is_some(),
            spec.input.is_some(),
            spec.coil.is_some(),
            spec.discrete.is_some(),
            spec.file.is_some(),
            spec.record.is_some(),
        ];
        if has_register.contains(&true) {
            check.fault(
                &self.path(name, "at"),
                "a plain instrument has no registers; write from, find or byte",
            );
        }
        for (is_given, key) in [
            (spec.scale_from.is_some(), "scale_from"),
            (spec.every.is_some(), "every"),
            (spec.group.is_some(), "group"),
        ] {
            if is_given {
                check.fault(
                    &self.path(name, key),
                    "points of a plain instrument do not have this; remove it (`every` below `text:` says how often it is asked)",
                );
            }
        }
        let mut typed = spec.clone();
        let place = match (&spec.find, spec.byte) {
            (Some(OneOrMore(patterns)), _) => Place::Find(patterns.clone()),
            (None, Some(at)) => Place::Byte(at),
            (None, None) => self.group(check, name, spec)?,
        };
        if !matches!(place, Place::Byte(_)) {
            // Text brings its own length; a number in it may have decimals.
            if spec
                .words
                .iter()
                .flatten()
                .any(|(raw, _)| raw.number().is_none())
            {
                typed.kind = typed.kind.or(Some(Kind::Text));
            }
            let is_whole = typed.words.is_some()
                || typed.flags.is_some()
                || typed.bit.is_some()
                || typed.bits.is_some()
                || typed.mask.is_some();
            typed.kind = typed
                .kind
                .or(Some(if is_whole { Kind::I64 } else { Kind::F64 }));
            if typed.array.is_some() {
                check.fault(
                    &self.path(name, "array"),
                    "an array is read from bytes; write `byte:`, or one point for each value",
                );
            }
            typed.length = typed
                .length
                .or_else(|| (typed.kind == Some(Kind::Text)).then_some(1));
        }
        let meaning = self.meaning(check, name, &typed, Table::Holding)?;
        let is_bytes = matches!(place, Place::Byte(_));
        self.check_used(
            check,
            name,
            spec,
            if is_bytes {
                Shape::Bytes(meaning.kind)
            } else {
                Shape::Written(meaning.kind)
            },
        );
        let units = self.units(check, name, spec, (&place, &meaning));
        if spec.notation == Some(Notation::DegreesMinutes)
            && (matches!(place, Place::Byte(_)) || meaning.kind != Kind::F64)
        {
            check.fault(
                &self.path(name, "notation"),
                "degrees and minutes are a number in text; remove `type` or `byte`",
            );
        }
        Some(Source::Found(Box::new(Found {
            place,
            when: spec.when.clone(),
            bad_when: self.bad_when(check, name, spec),
            units,
            unit_if_none: self.text().unit_if_none.as_deref().map(Arc::from),
            notation: spec.notation.unwrap_or_default(),
            words: Self::words_of_text(spec, &meaning),
            meaning,
        })))
    }

    /// Text for text; words for numbers are part of what these mean.
    fn words_of_text(spec: &file::Point, meaning: &Meaning) -> Vec<(Box<str>, Arc<str>)> {
        let words = spec
            .words
            .iter()
            .flatten()
            .filter(|_| meaning.kind == Kind::Text && spec.byte.is_none());
        words
            .map(|(raw, text)| (raw.0.as_str().into(), Arc::from(text.as_str())))
            .collect()
    }

    fn bad_when(
        &self,
        check: &mut Check<'_>,
        name: &str,
        spec: &file::Point,
    ) -> Vec<(Pattern, Arc<str>)> {
        let mut patterns = Vec::new();
        for (text, why) in spec.bad_when.iter().flatten() {
            match Pattern::new(text, self.device.address.as_deref()) {
                Ok(pattern) => patterns.push((pattern, Arc::from(why.as_str()))),
                Err(why) => check.fault(&self.path(name, "bad_when"), why),
            }
        }
        patterns
    }

    /// What a number means in each unit that messages may name. Without `units` that of the point is the only one.
    fn units(
        &self,
        check: &mut Check<'_>,
        name: &str,
        spec: &file::Point,
        (place, meaning): (&Place, &Meaning),
    ) -> Vec<(Box<str>, Meaning)> {
        let is_named = match place {
            Place::Group(group) => {
                let pattern: Option<Pattern> = self
                    .device
                    .each_line
                    .clone()
                    .or_else(|| self.text().pattern.map(|typed| typed.any));
                let own = format!("{group}_{UNIT}");
                group != UNIT
                    && pattern
                        .iter()
                        .flat_map(Pattern::names)
                        .any(|name| name == own || name == UNIT)
            }
            Place::Find(patterns) => patterns
                .iter()
                .flat_map(Pattern::names)
                .any(|name| name == UNIT),
            Place::Byte(_) => false,
        };
        let path = self.path(name, "units");
        match (&spec.units, &spec.unit) {
            (Some(_), _) if !is_named => {
                check.fault(&path, "no group of the pattern holds the unit; name one (?P<unit>...), or remove `units`");
                Vec::new()
            }
            (Some(_), _) if meaning.kind.is_text() => {
                check.fault(&path, "text has no unit; remove `units`, or the `type`");
                Vec::new()
            }
            (Some(units), _) => {
                let in_unit = |factor: &file::Factor| Meaning {
                    scale: meaning.scale * factor.scale,
                    offset: meaning.offset + meaning.scale * factor.offset,
                    ..meaning.clone()
                };
                if units.values().any(|factor| {
                    !factor.scale.is_finite() || factor.scale == 0.0 || !factor.offset.is_finite()
                }) {
                    check.fault(&path, "a factor is a number other than 0, such as 0.001");
                }
                units
                    .iter()
                    .map(|(unit, factor)| (unit.as_str().into(), in_unit(factor)))
                    .collect()
            }
            (None, Some(unit)) if is_named && !meaning.kind.is_text() => {
                vec![(unit.as_str().into(), meaning.clone())]
            }
            (None, _) => Vec::new(),
        }
    }

    /// The group of the pattern that a point is named after, or names.
    fn group(&self, check: &mut Check<'_>, name: &str, spec: &file::Point) -> Option<Place> {
        let group = spec.from.as_deref().unwrap_or(name);
        let pattern: Option<Pattern> = self
            .device
            .each_line
            .clone()
            .or_else(|| self.text().pattern.map(|typed| typed.any));
        let known: Vec<String> = pattern
            .iter()
            .flat_map(|pattern| pattern.0.capture_names().flatten())
            .map(str::to_owned)
            .collect();
        if known.iter().any(|known| known == group) {
            return Some(Place::Group(group.to_owned()));
        }
        if known.is_empty() {
            // A pattern that is wrong has been told of.
            let place = if self.device.text.is_some() {
                at!["devices", self.index, "text"].to_vec()
            } else {
                self.text_path("match")
            };
            if pattern.is_none() && check.is_faulty(&place) {
                return None;
            }
            check.missing(
                &self.path(name, "from"),
                format!(
                    "point \"{name}\" does not say where its value is; name it in the pattern as (?P<{name}>...), or add `find:` or `byte:`"
                ),
            );
        } else {
            check.unknown(&self.path(name, "from"), "group", group, &known);
        }
        None
    }
}
