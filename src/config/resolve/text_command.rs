//! Commands that write to plain instruments: what they take, what is filled in, and the answers.

use std::sync::Arc;

use super::context::PointCheck;
use super::unused::ValueShape;
use crate::config::file;
use crate::field::PointSource;
use crate::field::decode::{DataType, Meaning, Part, Table};
use crate::field::text::bytes::Template;
use crate::field::text::command::{CommandValue, SimulatedReply, TextCommand, is_value};
use crate::field::text::parse::{Notation, ValueLocation};
use crate::field::text::script::{Pattern, ScriptStep, TypedPattern};
use crate::field::text::telegram::{NumberFormat, Placeholder};

/// A command as typed in `write`, or else in `writable`.
#[derive(Clone, Copy)]
pub(super) struct TypedCommand<'s> {
    /// The key where faults of the command are noted.
    pub(super) key: &'static str,
    pub(super) send: Option<&'s Template>,
    pub(super) expect: Option<&'s TypedPattern>,
    pub(super) refuse: Option<&'s TypedPattern>,
    pub(super) simulate: Option<&'s SimulatedReply>,
}

impl<'s> TypedCommand<'s> {
    /// That of a point, key by key.
    pub(super) fn of(spec: &'s file::PointConfig) -> Self {
        let (own, base) = (spec.write.as_ref(), spec.writable.as_ref());
        let own_send = own.and_then(|own| own.send.as_ref());
        let base_send = base.and_then(|base| base.send.as_ref());
        Self {
            key: if own_send.is_none() && base_send.is_some() {
                "writable"
            } else {
                "write"
            },
            send: own_send.or(base_send),
            expect: own
                .and_then(|own| own.expect.as_ref())
                .or_else(|| base?.expect.as_ref()),
            refuse: own
                .and_then(|own| own.refuse.as_ref())
                .or_else(|| base?.refuse.as_ref()),
            simulate: own
                .and_then(|own| own.simulate.as_ref())
                .or_else(|| base?.simulate.as_ref()),
        }
    }

    /// True if something of it is typed.
    pub(super) fn is_typed(&self) -> bool {
        self.send.is_some()
            || self.expect.is_some()
            || self.refuse.is_some()
            || self.simulate.is_some()
    }
}

/// The placeholder of the value in a command.
pub(super) fn value_in(send: &Template) -> Option<&str> {
    send.names().find(|name| is_value(name))
}

/// Words for text; words for numbers are part of their meaning.
pub(super) fn words_of_text(
    spec: &file::PointConfig,
    meaning: &Meaning,
) -> Vec<(Box<str>, Arc<str>)> {
    let words = spec
        .words
        .iter()
        .flatten()
        .filter(|_| meaning.kind == DataType::Text && spec.byte.is_none());
    words
        .map(|(raw, text)| (raw.0.as_str().into(), Arc::from(text.as_str())))
        .collect()
}

impl PointCheck<'_, '_> {
    /// The command that writes the point; `None` if it has none, or a faulty one.
    pub(super) fn command(&mut self, source: &PointSource) -> Option<TextCommand> {
        let typed = TypedCommand::of(self.spec);
        let key = typed.key;
        let Some(send) = typed.send else {
            let why = if typed.is_typed() {
                "`expect`, `refuse` and `simulate` belong to a command; add `send: 'S {value}\\r\\n'`"
            } else {
                "a plain instrument is written by a command; add what it is sent, such as `send: 'S {value}\\r\\n'`, and `expect:` with its answer"
            };
            self.fault(key, why);
            return None;
        };
        if typed.refuse.is_some() && typed.expect.is_none() {
            self.fault(
                key,
                "without `expect` no answer is waited for; add it, or remove `refuse`",
            );
        }
        self.check_simulated_reply(typed, send);
        if !self.check_names_of_command(key, send) {
            return None;
        }
        let value = self.command_value(key, send, source)?;
        let pattern = |typed: Option<&TypedPattern>| {
            let address = self.context.address_of_text();
            // As typed it is a regular expression; the address is quoted.
            typed.and_then(|typed| Pattern::new(&typed.text, address.as_deref()).ok())
        };
        Some(TextCommand {
            send: send.clone(),
            expect: pattern(typed.expect),
            refuse: pattern(typed.refuse),
            value,
            simulated: typed.simulate.cloned().unwrap_or_default(),
        })
    }

    /// What a command takes, from its placeholder and the meaning of the point.
    fn command_value(
        &mut self,
        key: &str,
        send: &Template,
        source: &PointSource,
    ) -> Option<CommandValue> {
        let Some(placeholder) = value_in(send) else {
            return Some(CommandValue::Nothing);
        };
        let (meaning, is_bytes) = match source {
            PointSource::Extracted(found) => (
                &found.meaning,
                matches!(found.place, ValueLocation::Byte(_)),
            ),
            PointSource::Command(meaning) => (meaning.as_ref(), send.is_hex()),
            _ => return None,
        };
        let format = placeholder.split_once(':').map(|(_, format)| format);
        if let Some(why) = self.not_written(meaning) {
            self.fault(key, why);
            return None;
        }
        if format.is_some() && (is_bytes || meaning.kind.is_text()) {
            self.fault(
                key,
                "only a number in text has a format; write `{value}` alone",
            );
            return None;
        }
        if is_bytes {
            return Some(CommandValue::Bytes(meaning.clone()));
        }
        if meaning.kind.is_text() {
            return Some(CommandValue::Text(words_of_text(self.spec, meaning)));
        }
        // A wrong format is noted with the other placeholders.
        let format = NumberFormat::parse(format.unwrap_or_default())?;
        Some(CommandValue::Number {
            meaning: meaning.clone(),
            format,
        })
    }

    /// The reason why a value of this meaning cannot be written.
    fn not_written(&self, meaning: &Meaning) -> Option<&'static str> {
        let is_odd = meaning.array.is_some()
            || !meaning.flags.is_empty()
            || meaning.part != Part::Whole
            || (meaning.kind.is_text() && meaning.kind != DataType::Text);
        if is_odd {
            Some("times, arrays, flags and bits of a message are only read; remove `write`")
        } else if self.spec.notation == Some(Notation::DegreesMinutes) {
            Some("degrees and minutes are only read; remove `write`")
        } else {
            None
        }
    }

    /// Every placeholder of a command is known when it is sent; false if one is not.
    fn check_names_of_command(&mut self, key: &'static str, send: &Template) -> bool {
        let text = self.context.text();
        let address = self.context.address_of_text();
        if send.names().filter(|name| is_value(name)).count() > 1 {
            self.fault(key, "`{value}` is filled in once; remove the other");
        }
        let mut known = self.groups_of_script(&text);
        let mut are_known = true;
        for name in send.names() {
            match name {
                "address?" => {}
                "checksum" if text.checksum.is_none() => self.fault(
                    key,
                    "{checksum} needs `checksum:` below `text:` to say how it is computed",
                ),
                "checksum" => {}
                "address" => match &address {
                    Some(_) => {
                        self.context
                            .check_hex_address(self.check, send, address.as_deref());
                    }
                    None => self.context.missing_address(self.check),
                },
                name if is_value(name) => {
                    if let Err(why) = Placeholder::parse(name) {
                        self.fault(key, why);
                        are_known = false;
                    }
                }
                name if known.iter().any(|known| known == name) => {}
                other => {
                    known.extend(["value", "address", "checksum"].map(str::to_owned));
                    self.unknown(key, "placeholder", other, &known);
                    are_known = false;
                }
            }
        }
        are_known
    }

    /// The groups that are found by the script before the requests, which is run before a command,
    /// too.
    fn groups_of_script(&self, text: &file::TextConfig) -> Vec<String> {
        if text.request.is_none() {
            return Vec::new();
        }
        let steps = text.script.iter().flatten();
        let groups = steps.filter_map(|step| match step.always() {
            ScriptStep::Expect(pattern) => Some(pattern.capture_names().flatten()),
            _ => None,
        });
        groups.flatten().map(str::to_owned).collect()
    }

    /// A simulator finds the value in what it gets, and fills in points that are there.
    fn check_simulated_reply(&mut self, typed: TypedCommand<'_>, send: &Template) {
        let Some(reply) = typed.simulate else {
            return;
        };
        let key = typed.key;
        let is_open = value_in(send)
            .is_some_and(|name| !send.is_hex() && !name.contains(':') && send.ends_with(name));
        if is_open {
            self.fault(
                key,
                "a simulator cannot know where the value ends; write what ends the command behind it, such as \\r, or its width, such as {value:05.1}",
            );
        }
        let known: Vec<String> = self.context.known().keys().cloned().collect();
        let of_answer = reply.say.iter().flat_map(Template::names);
        for name in of_answer.chain(reply.zero.iter().map(String::as_str)) {
            match Placeholder::parse(name).map(|placeholder| placeholder.name()) {
                Err(why) => self.fault(key, why),
                Ok(Some("checksum" | "address") | None) => {}
                Ok(Some(name)) if known.iter().any(|known| known == name) => {}
                Ok(Some(name)) => self.unknown(key, "point", name, &known),
            }
        }
    }

    /// A point that messages do not bring, and that has a command: what the command takes.
    pub(super) fn written_only(&mut self) -> Option<PointSource> {
        let send = TypedCommand::of(self.spec).send;
        let Some(send) = send.filter(|send| value_in(send).is_some()) else {
            self.check_used(ValueShape::Ordered);
            return Some(PointSource::Command(Box::default()));
        };
        let typed = if send.is_hex() {
            self.spec.clone()
        } else {
            self.typed_as_text()
        };
        let meaning = self.with(self.name, &typed).meaning(Table::Holding)?;
        self.check_used(if send.is_hex() {
            ValueShape::Bytes(meaning.kind)
        } else {
            ValueShape::Written(meaning.kind)
        });
        Some(PointSource::Command(Box::new(meaning)))
    }
}
