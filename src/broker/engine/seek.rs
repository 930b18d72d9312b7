//! Finds the topics that match a filter in a list sorted by their bytes. Pure.
//!
//! A walk over the list costs a step for each topic; a filter that begins with a wildcard would
//! walk over all of them. [`Seek`] names the smallest topic that can still match, so that a walk
//! skips whole branches: `+/pump/flow` costs two steps for each first level, however many topics
//! lie below it.
//!
//! Invariant: no topic between the one that was looked at and the one that is named matches the
//! filter.

use crate::mqtt::TopicFilter;

/// `/` and the character behind it: `a/` and all that begins with it comes before `a0`.
const BEHIND_SLASH: &str = "0";
/// No topic has a lower character.
const FIRST: &str = "\u{1}";
/// The character behind `$`, as `0` is behind `/`.
const BEHIND_DOLLAR: &str = "%";

/// How a topic fits a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// It matches.
    Match,
    /// It does not; nothing before [`Seek::target`] does.
    Skip,
    /// It does not, and nothing behind it does.
    End,
}

/// A filter on its way through a sorted list.
#[derive(Debug)]
pub(super) struct Seek<'a> {
    levels: Vec<&'a str>,
    target: String,
}

impl<'a> Seek<'a> {
    pub(super) fn new(filter: &'a TopicFilter) -> Self {
        Self {
            levels: filter.plain().split('/').collect(),
            target: String::new(),
        }
    }

    /// The topic to go on with after [`Fit::Skip`]; it is greater than the one that was looked at.
    pub(super) fn target(&self) -> &str {
        &self.target
    }

    fn skip_to(&mut self, parts: [&str; 3]) -> Fit {
        self.target.clear();
        parts.iter().for_each(|part| self.target.push_str(part));
        Fit::Skip
    }

    /// Nothing more matches below the level that `+` took last, which ends at `end`.
    fn leave(&mut self, topic: &str, end: Option<usize>) -> Fit {
        let Some(taken) = end.and_then(|end| topic.get(..end)) else {
            return Fit::End;
        };
        self.skip_to([taken, BEHIND_SLASH, ""])
    }

    /// How a topic fits; the walk continues as it says.
    pub(super) fn fit(&mut self, topic: &str) -> Fit {
        if topic.starts_with('$') && matches!(self.levels.first(), Some(&("+" | "#"))) {
            return self.skip_to([BEHIND_DOLLAR, "", ""]); // [MQTT-4.7.2-1]
        }
        let (mut rest, mut begin, mut plus) = (Some(topic), 0, None);
        for place in 0..self.levels.len() {
            let Some(wanted) = self.levels.get(place).copied() else {
                break;
            };
            if wanted == "#" {
                return Fit::Match;
            }
            let Some(text) = rest else {
                // Behind `a` comes `a!/b`, which `+` takes, then `a/b`.
                let is_open = plus == Some(topic.len());
                return self.skip_to([
                    topic,
                    if is_open { FIRST } else { "/" },
                    if is_open || wanted == "+" { "" } else { wanted },
                ]);
            };
            let (level, behind) = text
                .split_once('/')
                .map_or((text, None), |(level, behind)| (level, Some(behind)));
            if wanted == "+" {
                plus = Some(begin + level.len());
            } else if wanted != level {
                return self.differs(topic, begin, place, plus);
            }
            begin += level.len() + 1;
            rest = behind;
        }
        if rest.is_none() {
            Fit::Match
        } else {
            self.leave(topic, plus)
        }
    }

    /// The level of the filter at `place`, which begins at `begin` of the topic, is another one
    /// there.
    fn differs(&mut self, topic: &str, begin: usize, place: usize, plus: Option<usize>) -> Fit {
        let (Some(before), Some(found)) = (topic.get(..begin), topic.get(begin..)) else {
            return Fit::End;
        };
        let wanted = self.levels.get(place).copied().unwrap_or_default();
        let next = self.levels.get(place + 1).copied();
        if next.is_none_or(|next| next == "#") && wanted > found {
            return self.skip_to([before, wanted, ""]);
        }
        // `a/b` comes behind `a!`, which comes behind `a`.
        if next.is_some() && is_before(found, wanted) {
            return self.skip_to([before, wanted, "/"]);
        }
        self.leave(topic, plus)
    }
}

/// True if `found` comes before `level` with a slash behind it.
fn is_before(found: &str, level: &str) -> bool {
    found.bytes().lt(level.bytes().chain([b'/']))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ops::Bound;

    use super::*;
    use crate::mqtt::TopicName;
    use proptest::prelude::*;

    /// The topics that a walk with skips finds in a sorted list, and its steps.
    fn walk<'a>(topics: &BTreeSet<&'a str>, filter: &TopicFilter) -> (Vec<&'a str>, usize) {
        let mut seek = Seek::new(filter);
        let (mut found, mut steps) = (Vec::new(), 0);
        let mut next = topics.first().copied();
        while let Some(topic) = next {
            steps += 1;
            next = match seek.fit(topic) {
                Fit::End => break,
                Fit::Match => {
                    found.push(topic);
                    topics
                        .range::<str, _>((Bound::Excluded(topic), Bound::Unbounded))
                        .next()
                        .copied()
                }
                Fit::Skip => {
                    assert!(seek.target() > topic, "{topic}: {}", seek.target());
                    topics
                        .range::<str, _>((Bound::Included(seek.target()), Bound::Unbounded))
                        .next()
                        .copied()
                }
            };
        }
        (found, steps)
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn a_walk_with_skips_finds_what_matching_one_by_one_finds(
            filter in prop::collection::vec(prop::sample::select(vec!["a", "b", "a!", "", "+", "+", "#", "$x", "é"]), 1..5),
            topics in prop::collection::vec(prop::collection::vec(prop::sample::select(vec!["a", "b", "a!", "a0", "", "$x", "é", "\u{1}"]), 1..5), 1..40),
        ) {
            let Ok(filter) = TopicFilter::new(filter.join("/")) else { return Ok(()) };
            let topics: Vec<String> = topics.iter().map(|levels| levels.join("/")).filter(|topic| !topic.is_empty()).collect();
            let topics: BTreeSet<&str> = topics.iter().map(String::as_str).collect();
            let expected: Vec<&str> = topics.iter().copied().filter(|topic| filter.matches(&TopicName::new(*topic).unwrap())).collect();
            prop_assert_eq!(walk(&topics, &filter).0, expected, "{}", filter);
        }
    }

    #[test]
    fn branches_that_cannot_match_are_skipped() {
        let topics: Vec<String> = (0..10)
            .flat_map(|site| (0..1000).map(move |tag| format!("site{site}/tag{tag}/value")))
            .collect();
        let topics: BTreeSet<&str> = topics.iter().map(String::as_str).collect();
        for (filter, matches) in [
            ("+/tag7/value", 10),
            ("+/nothing", 0),
            ("+/tag7/#", 10),
            ("site3/tag7/value", 1),
            ("+", 0),
        ] {
            let (found, steps) = walk(&topics, &TopicFilter::new(filter).unwrap());
            assert_eq!(found.len(), matches, "{filter}");
            assert!(
                steps <= 31,
                "{filter}: {steps} steps for 10 branches of 1000 topics"
            );
        }
    }
}
