//! How a plain instrument talks, as typed.

use serde::Deserialize;

use super::OneOrMore;
use crate::field::text::bytes::{Bytes, Template};
use crate::field::text::checksum::Checksum;
use crate::field::text::frame::{LONGEST, Length, MessageFraming, WithEnd};
use crate::field::text::parse::Subtract;
use crate::field::text::script::{ScriptStep, TypedPattern};
use crate::units::Span;

/// Protocol of a plain serial instrument.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct TextConfig {
    /// The request: text, bytes as `{ hex: ... }`, or a list. Default none: the instrument talks by
    /// itself.
    pub(in crate::config) request: Option<OneOrMore<Template>>,
    /// Steps before the request: send, expect, wait, speed; `if` makes a step depend on a group
    /// that was found.
    pub(in crate::config) script: Option<Vec<ScriptStep>>,
    /// How often the instrument is polled. Default 10s.
    pub(in crate::config) every: Option<Span>,
    /// How long the instrument may take to answer. Default that of the line.
    pub(in crate::config) answer_within: Option<Span>,
    /// A point becomes bad when no message has contained it for this long, and an instrument that
    /// talks by itself is offline after this silence. Default 1m; three times `every` if the
    /// instrument is polled.
    pub(in crate::config) silent_after: Option<Span>,
    /// How the byte stream is split into messages. Default: lines.
    pub(in crate::config) frame: Option<FrameConfig>,
    /// The checksum of messages. Default none.
    pub(in crate::config) checksum: Option<Checksum>,
    /// Subtracted from each byte before it is read. Default nothing.
    pub(in crate::config) subtract: Option<Subtract>,
    /// A regular expression that messages match; its named groups are values. Default any message.
    #[serde(rename = "match")]
    pub(in crate::config) pattern: Option<TypedPattern>,
    /// The unit of numbers in messages that name none, for points that know it. Default none: such
    /// numbers are bad if a unit is expected.
    pub(in crate::config) unit_if_none: Option<String>,
    /// What a simulator says for it, with `{<point>}` filled in, or `{226..234:05.1}` for a value
    /// of its own: one message, all that it says again and again, or one for each thing that is
    /// sent to it. Default nothing.
    pub(in crate::config) simulate: Option<OneOrMore<Template>>,
    /// Keys that are taken away from the profile.
    #[serde(default, rename = "(taken away)")]
    #[schemars(skip)]
    pub(in crate::config) removed: Vec<String>,
}

/// How messages are cut out of the stream.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct FrameConfig {
    /// Every message begins with these bytes.
    pub(in crate::config) start: Option<Bytes>,
    /// Every message ends with these bytes.
    pub(in crate::config) end: Option<Bytes>,
    /// What follows the end and belongs to the message: a number of bytes, everything up to these
    /// bytes, or `checksum`. Default 0.
    pub(in crate::config) with_end: Option<WithEnd>,
    /// The message says how long it is.
    pub(in crate::config) length: Option<Length>,
    /// Silence ends a message.
    pub(in crate::config) silence: Option<Span>,
    /// Longest message, in bytes. Default 4096.
    pub(in crate::config) max: Option<usize>,
    /// Keys that are taken away from the profile.
    #[serde(default, rename = "(taken away)")]
    #[schemars(skip)]
    pub(in crate::config) removed: Vec<String>,
}

/// `own`, or that of the profile unless it was taken away.
fn either<T>(own: Option<T>, base: Option<T>, removed: &[String], key: &str) -> Option<T> {
    own.or(base.filter(|_| !removed.iter().any(|removed| removed == key)))
}

impl TextConfig {
    /// This where it says something, `base` where it does not.
    pub(in crate::config) fn over(&self, base: &Self) -> Self {
        let own = self.clone();
        let base = base.clone();
        let away = &self.removed;
        let request = either(own.request, base.request, away, "request");
        let script = either(own.script, base.script, away, "script");
        // An instrument that is not asked any more has no use for how often the profile asks it.
        let is_asked = request.is_some() || script.is_some();
        Self {
            request,
            script,
            every: either(own.every, base.every.filter(|_| is_asked), away, "every"),
            answer_within: either(own.answer_within, base.answer_within, away, "answer_within"),
            silent_after: either(own.silent_after, base.silent_after, away, "silent_after"),
            frame: match (own.frame, base.frame) {
                (Some(own), Some(base)) => Some(own.over(base)),
                (own, base) => own.or(base),
            },
            checksum: either(own.checksum, base.checksum, away, "checksum"),
            subtract: either(own.subtract, base.subtract, away, "subtract"),
            pattern: either(own.pattern, base.pattern, away, "match"),
            unit_if_none: either(own.unit_if_none, base.unit_if_none, away, "unit_if_none"),
            simulate: either(own.simulate, base.simulate, away, "simulate"),
            removed: Vec::new(),
        }
    }
}

impl FrameConfig {
    fn over(self, base: Self) -> Self {
        let away = &self.removed;
        Self {
            start: either(self.start, base.start, away, "start"),
            end: either(self.end, base.end, away, "end"),
            with_end: either(self.with_end, base.with_end, away, "with_end"),
            length: either(self.length, base.length, away, "length"),
            silence: either(self.silence, base.silence, away, "silence"),
            max: either(self.max, base.max, away, "max"),
            removed: Vec::new(),
        }
    }

    /// As meant; `checksum`: how many bytes the checksum of a message has.
    pub(in crate::config) fn framing(self, checksum: usize) -> MessageFraming {
        let with_end = match self.with_end {
            None => WithEnd::Count(0),
            Some(WithEnd::Checksum) => WithEnd::Count(checksum),
            Some(given) => given,
        };
        MessageFraming {
            start: self.start,
            end: self.end,
            with_end,
            length: self.length,
            silence: self.silence,
            max: self.max.unwrap_or(LONGEST),
        }
    }
}
