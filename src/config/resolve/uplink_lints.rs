//! Uplinks that hardly do what is meant: rules without messages, loops, duplicates, data bills.

use super::field::Field;
use super::rates::rates;
use super::{Check, at, cloud, health};
use crate::config::UplinkSetup;
use crate::config::traffic::{MONTH, size, traffic};
use crate::mqtt::{TopicFilter, TopicName};
use crate::route::{Inward, Rule, SET};
use crate::uplink::Protocol;
use crate::uplink::cloud::Cloud;

/// One uplink while it is compared with the field and with the other uplinks.
struct UplinkLint<'a> {
    index: usize,
    uplink: &'a UplinkSetup,
    all: &'a [UplinkSetup],
    field: &'a Field,
}

/// Rules that never have anything to send, rules that send messages back, bills that are too high.
pub(super) fn uplinks(check: &mut Check<'_>, uplinks: &[UplinkSetup], field: &Field) {
    for uplink in uplinks {
        let mut typed = check.file.uplinks.iter();
        let Some(index) = typed.position(|typed| typed.name == uplink.settings.name) else {
            continue;
        };
        let lint = UplinkLint {
            index,
            uplink,
            all: uplinks,
            field,
        };
        lint.idle_rules(check);
        lint.echoes(check);
        lint.copies(check);
        lint.returning_commands(check);
        cloud::topics(check, index, uplink, field.topics());
        rates(check, index, uplink, &field.lines, &field.reports);
        lint.bill(check);
    }
}

impl UplinkLint<'_> {
    /// More data than the tariff is meant for.
    fn bill(&self, check: &mut Check<'_>) {
        // Nobody knows for how many hours a backup is used.
        if self.uplink.settings.use_when.is_some() {
            return;
        }
        let Some(budget) = self.uplink.tariff.per_month else {
            return;
        };
        let field = self.field;
        let month = traffic(&field.lines, &field.reports, self.uplink).most_together * MONTH;
        #[allow(clippy::cast_precision_loss)]
        let budget = budget as f64;
        if month > budget {
            let (month, budget) = (size(month), size(budget));
            check.warn(
                &at!["uplinks", self.index, "tariff", "per_month"],
                format!("if every reading is sent, {month} a month go through this uplink, and {budget} are meant; read less often, or use deadbands"),
            );
        }
    }

    /// Rules that match no topic, or only topics of rules before them.
    fn idle_rules(&self, check: &mut Check<'_>) {
        for (number, rule) in self.uplink.routes.send.iter().enumerate() {
            let path = at!["uplinks", self.index, "send", number, "filter"];
            let filter = rule.mapping.filter();
            let mut before = self.uplink.routes.send.iter().take(number);
            if let Some(why) = health::keeps_here(rule) {
                check.fault(&path, why);
            } else if let Some(other) = before.find(|other| takes_all(other, rule)) {
                check.fault(
                    &path,
                    format!("the rule for {} before this one takes all its messages; put this one first, or remove it", other.mapping.filter()),
                );
            } else if !self.has_topics(check, filter)
                && let Some(warning) = idle(check, filter)
            {
                check.warn(&path, warning);
            }
        }
    }

    /// True if a topic of the field, or one of the gateway itself, matches.
    fn has_topics(&self, check: &Check<'_>, filter: &TopicFilter) -> bool {
        let own = self
            .uplink
            .own
            .iter()
            .map(|own| &own.topic)
            .filter(|_| health::is_of_gateway(check, filter));
        self.field
            .topics()
            .chain(own)
            .any(|topic| filter.matches(topic))
    }

    /// Filters that overlap, where copies cannot be told from messages that were published twice.
    fn copies(&self, check: &mut Check<'_>) {
        if self.uplink.settings.protocol != Protocol::V311 {
            return;
        }
        let filters: Vec<&TopicFilter> = self
            .uplink
            .routes
            .receive
            .iter()
            .map(|inward| inward.mapping.filter())
            .collect();
        let meets = |one: &TopicFilter, other: &TopicFilter| {
            let is_shared = one.is_shared() || other.is_shared();
            !is_shared && one.overlaps(other) && !one.covers(other) && !other.covers(one)
        };
        let mut pairs = filters.iter().enumerate().map(|(number, one)| {
            (
                number,
                one,
                filters.iter().take(number).find(|other| meets(one, other)),
            )
        });
        if let Some((number, one, Some(other))) = pairs.find(|(_, _, other)| other.is_some()) {
            check.warn(
                &at!["uplinks", self.index, "receive", number, "filter"],
                format!("a message that both {other} and {one} match may come twice, because MQTT 3.1.1 does not tell copies from messages; choose filters that do not meet, or `protocol: 5`"),
            );
        }
    }

    /// Messages that would go back where they came from.
    fn echoes(&self, check: &mut Check<'_>) {
        let uplink = self.uplink;
        if matches!(uplink.settings.cloud, Some(Cloud::AzureIotHub(_))) {
            // A hub hands nothing on to the device that it came from.
            return;
        }
        for (number, rule) in uplink.routes.send.iter().enumerate() {
            let path = at!["uplinks", self.index, "send", number, "filter"];
            let there = rule
                .mapping
                .image()
                .map_or_else(|| "topics".to_owned(), |there| there.to_string());
            let returned = uplink
                .routes
                .receive
                .iter()
                .map(|inward| inward.mapping.filter())
                .find(|filter| rule.mapping.meets(filter));
            if let Some(filter) = returned.filter(|_| uplink.settings.protocol == Protocol::V311) {
                check.fault(
                    &path,
                    format!("what is sent to {there} comes back through `receive: {filter}`, because MQTT 3.1.1 has no \"no local\"; choose filters that do not meet, or `protocol: 5`"),
                );
            }
            for other in self.others_at_same_remote() {
                let goes_round = |inward: &&Inward| {
                    inward.mapping.meets(rule.mapping.filter())
                        && rule.mapping.meets(inward.mapping.filter())
                };
                if let Some(inward) = other.routes.receive.iter().find(goes_round) {
                    let (filter, other) = (inward.mapping.filter(), &other.settings.name);
                    check.fault(
                        &path,
                        format!("{other} receives {filter} from the same remote, this rule sends it back there, and it would go round for ever; choose filters that do not meet"),
                    );
                }
            }
        }
    }

    /// Commands of local clients that come back by another uplink: the instrument would be written
    /// twice.
    fn returning_commands(&self, check: &mut Check<'_>) {
        let uplink = self.uplink;
        let writable: Vec<&TopicName> = self.field.writable().collect();
        for other in self
            .others_at_same_remote()
            .filter(|other| other.routes.commands || !other.routes.receive.is_empty())
        {
            let returns = |point: &&TopicName| {
                let command = TopicName::new(format!("{point}{SET}")).ok()?;
                let ways = uplink.routes.ways_of_command(&command);
                let back = ways
                    .iter()
                    .find(|(_, there)| other.routes.comes_in_as(there, &command));
                back.map(|(number, _)| (*number, command))
            };
            let Some((number, command)) = writable.iter().find_map(returns) else {
                continue;
            };
            let path = at!["uplinks", self.index, "send", number, "filter"];
            if !check.is_faulty(&path) {
                let other = &other.settings.name;
                check.fault(
                    &path,
                    format!("{command} of a local client would come back through {other}, and the instrument would be written twice; send what is needed only, or add `commands: true` here and remove it there"),
                );
            }
        }
    }

    /// Other uplinks that reach the same remote.
    fn others_at_same_remote(&self) -> impl Iterator<Item = &UplinkSetup> {
        let (own, remotes) = (&self.uplink.settings.name, &self.uplink.settings.remotes);
        self.all.iter().filter(move |other| {
            other.settings.name != *own
                && remotes
                    .iter()
                    .any(|remote| other.settings.remotes.contains(remote))
        })
    }
}

/// True if `before` matches every message that `rule` matches.
fn takes_all(before: &Rule, rule: &Rule) -> bool {
    let has_class = |class| before.only.contains(class);
    before.mapping.filter().covers(rule.mapping.filter())
        && (before.condition.is_none() || before.condition == rule.condition)
        && (before.only.is_empty() || (!rule.only.is_empty() && rule.only.iter().all(has_class)))
}

/// The warning for a filter that no topic of the gateway matches; `None` if clients of its broker
/// may publish there.
fn idle(check: &Check<'_>, filter: &TopicFilter) -> Option<String> {
    let site = check.file.site.as_deref().unwrap_or_default();
    let is_of_site = filter.as_str().split('/').next() == Some(site);
    let first = filter
        .as_str()
        .trim_start_matches('/')
        .split('/')
        .next()
        .unwrap_or_default();
    let has_broker = check.file.broker.is_some();
    if !is_of_site && is_slip_of(first, site) {
        let own = if has_broker {
            ", unless a client publishes here"
        } else {
            ""
        };
        Some(format!(
            "no point is published below `{first}`{own}; did you mean `{site}`, the site?"
        ))
    } else if !has_broker || is_of_site {
        Some(format!(
            "no point of this file is published on a topic that {filter} matches"
        ))
    } else {
        None
    }
}

/// True if a name is another one with a slip of the pen, and not the next one in a row of numbers.
fn is_slip_of(typed: &str, name: &str) -> bool {
    let digits = |text: &str| {
        text.chars()
            .filter(char::is_ascii_digit)
            .collect::<String>()
    };
    let distance = strsim::damerau_levenshtein(&typed.to_lowercase(), &name.to_lowercase());
    !name.is_empty() && distance <= name.len() / 4 && digits(typed) == digits(name)
}
