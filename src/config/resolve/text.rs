//! Plain instruments: requests, scripts, framing, and their placeholders.

use std::sync::Arc;
use std::time::Duration;

use super::context::DeviceContext;
use super::{Check, at};
use crate::config::SetBy;
use crate::config::document::PathStep;
use crate::config::file::{self, OneOrMore};
use crate::config::telegrams;
use crate::field::text::TextProtocol;
use crate::field::text::bytes::Template;
use crate::field::text::checksum::Checksum;
use crate::field::text::frame::MessageFraming;
use crate::field::text::script::{Pattern, ScriptStep};
use crate::field::text::telegram::Placeholder;
use crate::field::{Device, DeviceProtocol, Line, Wire};

const DEFAULT_POLL: Duration = Duration::from_secs(10);
const DEFAULT_SILENCE: Duration = Duration::from_secs(60);

/// A template that is sent, with the names that are known by then.
struct Sent<'t> {
    template: &'t Template,
    /// `script` or `request`.
    key: &'static str,
    known: Vec<String>,
}

impl Sent<'_> {
    /// All that may be written in it.
    fn placeholders(&self) -> Vec<String> {
        let always = ["address", "checksum"].map(str::to_owned);
        self.known.iter().cloned().chain(always).collect()
    }
}

impl DeviceContext<'_> {
    /// Place of a key of the section `text`.
    pub(super) fn text_path(&self, key: &str) -> Vec<PathStep> {
        match &self.device.profile {
            Some(profile) if self.device.text.is_none() => {
                at!["profiles", profile, "text", key].to_vec()
            }
            _ => at!["devices", self.index, "text", key].to_vec(),
        }
    }

    /// That of the profile, overridden key by key.
    pub(super) fn text(&self) -> file::TextConfig {
        let base = self.profile.and_then(|profile| profile.text.as_ref());
        match (&self.device.text, base) {
            (Some(own), Some(base)) => own.over(base),
            (Some(text), None) | (None, Some(text)) => text.clone(),
            (None, None) => file::TextConfig::default(),
        }
    }

    /// The protocol of a plain instrument; `None` for a Modbus device. Notes a line of the other
    /// kind.
    pub(super) fn talk(&self, check: &mut Check<'_>, line: &Line) -> Option<TextProtocol> {
        if !self.is_text {
            self.check_line_of_modbus(check, line);
            return None;
        }
        self.check_line_of_text(check, line);
        let text = self.text();
        let framing = self.framing(check, &text);
        self.check_pattern(check, &text);
        let address = self.address_of_text();
        self.check_names(check, &text, address.as_deref());
        self.check_simulated(check, &text);
        let requests = text.request.clone().map(|OneOrMore(list)| list);
        let requests = requests.unwrap_or_default();
        let script = text.script.clone().unwrap_or_default();
        let is_polled = !requests.is_empty() || !script.is_empty();
        if !is_polled {
            self.check_unpolled(check, &text);
        }
        self.check_talk_spans(check, &text);
        let (every, silent_after) = self.intervals(&text, is_polled);
        Some(TextProtocol {
            requests,
            script,
            every,
            silent_after,
            answer_within: text.answer_within.map(|span| span.0),
            framing,
            simulate: self.simulated(&text),
            pattern: self.pattern(&text, address.as_deref()),
            checksum: text.checksum,
            subtract: text.subtract,
            address: address.unwrap_or_default(),
        })
    }

    fn check_pattern(&self, check: &mut Check<'_>, text: &file::TextConfig) {
        if self.device.each_line.is_some() && text.pattern.is_some() {
            check.fault(
                &at!["devices", self.index, "each_line"],
                "`each_line` and `match` say the same; keep one",
            );
        }
    }

    /// The pattern of messages: of the device, else of its protocol with the address filled in.
    fn pattern(&self, text: &file::TextConfig, address: Option<&str>) -> Option<Pattern> {
        let typed = text.pattern.as_ref();
        let typed = typed.and_then(|typed| Pattern::new(&typed.text, address).ok());
        self.device.each_line.clone().or(typed)
    }

    /// The address for requests; a number may be written as `unit`.
    pub(super) fn address_of_text(&self) -> Option<String> {
        let unit = || self.device.unit.map(|unit| unit.to_string());
        self.device.address.clone().or_else(unit)
    }

    /// Polling interval and the silence after which a point is bad.
    fn intervals(&self, text: &file::TextConfig, is_polled: bool) -> (Duration, Duration) {
        let silent_after = text.silent_after.map(|span| span.0);
        if is_polled {
            let every = self.asked_every().0.unwrap_or(DEFAULT_POLL);
            // Three answers in a row lack the point.
            (every, silent_after.unwrap_or(every * 2))
        } else {
            let every = silent_after.unwrap_or(DEFAULT_SILENCE);
            (every, every)
        }
    }

    fn check_line_of_modbus(&self, check: &mut Check<'_>, line: &Line) {
        let is_other = |other: &&Arc<Device>| !self.simulated && !other.protocol.is_modbus();
        let (name, here) = (&line.name, at!["devices", self.index, "line"]);
        match line.devices.iter().find(is_other).map(|other| &other.protocol) {
            Some(DeviceProtocol::Mbus(_) | DeviceProtocol::Sml(_)) => check.fault(
                &here,
                format!("line {name} has meters; give the device `mbus:` or `sml:`, or put it on another line"),
            ),
            None if !matches!(line.wire, Wire::Tcp(_)) => {}
            _ => check.fault(
                &here,
                format!("line {name} has plain instruments; give the device `each_line:` or `text:`, or put it on another line"),
            ),
        }
    }

    fn check_line_of_text(&self, check: &mut Check<'_>, line: &Line) {
        let here = at!["devices", self.index, "line"];
        if !matches!(line.wire, Wire::Serial(_) | Wire::Tcp(_) | Wire::Simulated) {
            check.fault(
                &here,
                format!(
                    "line {} speaks Modbus; a plain instrument needs `serial:` or `tcp:`",
                    line.name
                ),
            );
        }
        let other = line
            .devices
            .iter()
            .find(|other| !self.simulated && other.protocol.text().is_none());
        if let Some(other) = other {
            let (line, others) = (&line.name, other.protocol.name());
            check.fault(
                &here,
                format!("line {line} has {others}; put plain instruments on a line of their own"),
            );
        }
    }

    /// How messages are cut out of the stream; notes a wrong frame and a wrong checksum.
    fn framing(&self, check: &mut Check<'_>, text: &file::TextConfig) -> MessageFraming {
        let checksum = text.checksum.as_ref().map_or(0, Checksum::length);
        let framing = text
            .frame
            .clone()
            .map_or_else(MessageFraming::default, |frame| frame.framing(checksum));
        if let Err(why) = framing.check() {
            check.fault(&self.text_path("frame"), why);
        }
        if let Some(Err(why)) = text.checksum.as_ref().map(Checksum::check) {
            check.fault(&self.text_path("checksum"), why);
        }
        framing
    }

    /// An instrument that sends by itself has no polling interval.
    fn check_unpolled(&self, check: &mut Check<'_>, text: &file::TextConfig) {
        if self.device.every.is_some() {
            check.fault(
                &at!["devices", self.index, "every"],
                "an instrument that sends by itself is not asked; remove it",
            );
        }
        if text.every.is_some() {
            check.fault(
                &self.text_path("every"),
                "an instrument that sends by itself is not asked; write `silent_after` instead",
            );
        }
    }

    /// The polling interval of a plain instrument and its source: the nearest one that is set.
    pub(super) fn asked_every(&self) -> (Option<Duration>, SetBy) {
        let base = self.profile.and_then(|profile| profile.text.as_ref());
        let own = self.device.text.as_ref();
        let is_kept =
            |key: &str| own.is_none_or(|own| !own.removed.iter().any(|removed| removed == key));
        let [device, profile, line, defaults] =
            self.defaults.map(|(set_by, given)| (given.every, set_by));
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
    fn check_talk_spans(&self, check: &mut Check<'_>, text: &file::TextConfig) {
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

    /// The messages of a simulator: as typed, else those of the ready-made profile.
    fn simulated(&self, text: &file::TextConfig) -> Vec<Template> {
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

    /// A simulator fills in points, and has one message for each request.
    fn check_simulated(&self, check: &mut Check<'_>, text: &file::TextConfig) {
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

    /// Every placeholder is known when its template is sent.
    fn check_names(&self, check: &mut Check<'_>, text: &file::TextConfig, address: Option<&str>) {
        let mut needs_address = text
            .pattern
            .as_ref()
            .is_some_and(|typed| typed.text.contains("{address"));
        for sent in self.sent(check, text) {
            for name in sent.template.names() {
                match name {
                    "checksum" if sent.key == "script" || text.checksum.is_none() => check.fault(
                        &self.text_path(sent.key),
                        "{checksum} is filled in only in `request`, and needs `checksum:` to say how it is computed",
                    ),
                    // The question mark: it may be missing.
                    "checksum" | "address?" => {}
                    "address" => {
                        needs_address = true;
                        self.check_hex_address(check, sent.template, address);
                    }
                    other if sent.known.iter().any(|known| known == other) => {}
                    other => {
                        let known = sent.placeholders();
                        check.unknown(&self.text_path(sent.key), "placeholder", other, &known);
                    }
                }
            }
        }
        if needs_address && address.is_none() {
            self.missing_address(check);
        }
    }

    /// All that is sent, each with the groups that the script has found before it.
    fn sent<'t>(&self, check: &mut Check<'_>, text: &'t file::TextConfig) -> Vec<Sent<'t>> {
        let mut groups: Vec<String> = Vec::new();
        let mut sent: Vec<Sent<'t>> = Vec::new();
        for mut step in text.script.iter().flatten() {
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
                | ScriptStep::Speed(template) => sent.push(Sent {
                    template,
                    key: "script",
                    known: groups.clone(),
                }),
                ScriptStep::Expect(pattern) => {
                    groups.extend(pattern.capture_names().flatten().map(str::to_owned));
                }
            }
        }
        let requests = text.request.iter().flat_map(|list| &list.0);
        sent.extend(requests.map(|template| Sent {
            template,
            key: "request",
            known: groups.clone(),
        }));
        sent
    }

    /// In a request of bytes the address is written in pairs of digits.
    pub(super) fn check_hex_address(
        &self,
        check: &mut Check<'_>,
        template: &Template,
        address: Option<&str>,
    ) {
        let is_hex = address.is_none_or(|address| {
            address.len() % 2 == 0 && address.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        if template.is_hex() && !is_hex {
            check.fault(
                &at!["devices", self.index, "address"],
                "the request is made of bytes; write the address as pairs of digits, such as '123456789012'",
            );
        }
    }

    pub(super) fn missing_address(&self, check: &mut Check<'_>) {
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
