//! The nodes of a file with the place of each, as a YAML parser reports them. What is so large,
//! deep or repeated that no gateway has it is a fault.

use std::collections::HashMap;

use indexmap::IndexMap;
use indexmap::map::Entry;
use saphyr_parser::{Event, Marker, Parser, Span};

use super::{PathStep, syntax};
use crate::config::diagnostics::{Diagnostics, SourceLocation};

/// Nodes of a file: far more than a gateway can have, and few enough for its memory.
const MOST_NODES: usize = 2_000_000;
/// Nodes that aliases may repeat; a few lines could otherwise expand to billions.
const MAX_ALIASED: usize = 100_000;
/// Nodes deep a file may be.
const MAX_DEPTH: usize = 64;

/// A value or a key of the file.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Of the key for values of a mapping, of the node itself otherwise.
    pub(super) key_place: SourceLocation,
    pub(super) place: SourceLocation,
    /// Just behind its last character.
    pub(super) end: SourceLocation,
    pub(super) children: Children,
}

#[derive(Debug, Clone)]
pub(super) enum Children {
    None,
    /// Of a key that is used twice the first one.
    Map(IndexMap<String, Node>),
    Seq(Vec<Node>),
}

impl Node {
    pub(super) fn size(&self) -> usize {
        1 + match &self.children {
            Children::None => 0,
            Children::Map(entries) => entries.values().map(Self::size).sum(),
            Children::Seq(items) => items.iter().map(Self::size).sum(),
        }
    }

    pub(super) fn child(&self, step: &PathStep) -> Option<&Self> {
        match (&self.children, step) {
            (Children::Map(entries), PathStep::Key(key)) => entries.get(key),
            (Children::Seq(items), PathStep::Index(index)) => items.get(*index),
            _ => None,
        }
    }

    pub(super) fn child_mut(&mut self, step: &PathStep) -> Option<&mut Self> {
        match (&mut self.children, step) {
            (Children::Map(entries), PathStep::Key(key)) => entries.get_mut(key),
            (Children::Seq(items), PathStep::Index(index)) => items.get_mut(*index),
            _ => None,
        }
    }
}

/// Makes the nodes of a file out of the events of its parser.
pub(super) struct Builder<'a, 'f> {
    events: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    /// Nodes of each anchor.
    sizes: HashMap<usize, usize>,
    /// Nodes that came by alias.
    aliased: usize,
    /// All others.
    nodes: usize,
    faults: &'f mut Diagnostics,
    /// Of the file.
    number: usize,
    text: &'a str,
}

impl<'a, 'f> Builder<'a, 'f> {
    /// The node at the top; `None` if something is so wrong that there is none.
    pub(super) fn build(number: usize, text: &'a str, faults: &'f mut Diagnostics) -> Option<Node> {
        let mut builder = Builder {
            events: Parser::new_from_str(text),
            anchors: HashMap::new(),
            sizes: HashMap::new(),
            aliased: 0,
            nodes: 0,
            faults,
            number,
            text,
        };
        loop {
            match builder.next()? {
                (Event::StreamStart | Event::DocumentStart(_) | Event::Nothing, _) => {}
                (Event::StreamEnd | Event::DocumentEnd, _) => {
                    return Some(Node {
                        key_place: SourceLocation::start_of(number),
                        place: SourceLocation::start_of(number),
                        end: SourceLocation::start_of(number),
                        children: Children::None,
                    });
                }
                (event, span) => return builder.node(event, span, None, 0).map(|(_, node)| node),
            }
        }
    }

    fn next(&mut self) -> Option<(Event<'a>, Span)> {
        match self.events.next()? {
            Ok(event) => Some(event),
            Err(error) => {
                let at = error.marker();
                let message = syntax::explain(self.text, at.line(), at.col() + 1, error.info());
                self.faults.at(self.location(at), message);
                None
            }
        }
    }

    fn location(&self, marker: &Marker) -> SourceLocation {
        SourceLocation::new(self.number, marker.line(), marker.col() + 1)
    }

    /// The node an event begins, with its text if it is a scalar.
    fn node(
        &mut self,
        event: Event<'a>,
        span: Span,
        key_place: Option<SourceLocation>,
        depth: usize,
    ) -> Option<(String, Node)> {
        let place = self.location(&span.start);
        let key_place = key_place.unwrap_or(place);
        self.check_size(place, depth)?;
        let mut text = String::new();
        let mut end = self.location(&span.end);
        let (anchor, children) = match event {
            Event::Scalar(scalar, _, anchor, _) => {
                text = scalar.into_owned();
                (anchor, Children::None)
            }
            Event::SequenceStart(anchor, _) => (anchor, self.sequence(depth, &mut end)?),
            Event::MappingStart(anchor, _) => (anchor, self.mapping(depth, &mut end)?),
            Event::Alias(anchor) => (0, self.aliased(anchor, place)?),
            _ => (0, Children::None),
        };
        let node = Node {
            key_place,
            place,
            end,
            children,
        };
        if anchor > 0 {
            self.sizes.insert(anchor, node.size());
            self.anchors.insert(anchor, node.clone());
        }
        Some((text, node))
    }

    /// `None` with a fault if the file is deeper or larger than any gateway's.
    fn check_size(&mut self, place: SourceLocation, depth: usize) -> Option<()> {
        self.nodes += 1;
        let why = if depth > MAX_DEPTH {
            format!("nested more than {MAX_DEPTH} deep")
        } else if self.nodes > MOST_NODES {
            format!("more than {MOST_NODES} keys and values; no gateway is that large")
        } else {
            return Some(());
        };
        self.faults.at(place, why);
        None
    }

    /// The content that an alias repeats.
    fn aliased(&mut self, anchor: usize, place: SourceLocation) -> Option<Children> {
        self.aliased += self.sizes.get(&anchor).copied().unwrap_or(0);
        if self.aliased > MAX_ALIASED {
            self.faults
                .at(place, "too much is repeated by `*` aliases".to_owned());
            return None;
        }
        let node = self.anchors.get(&anchor);
        Some(node.map_or(Children::None, |node| node.children.clone()))
    }

    fn sequence(&mut self, depth: usize, end: &mut SourceLocation) -> Option<Children> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, span) => {
                    *end = self.location(&span.end);
                    return Some(Children::Seq(items));
                }
                (event, span) => items.push(self.node(event, span, None, depth + 1)?.1),
            }
        }
    }

    fn mapping(&mut self, depth: usize, end: &mut SourceLocation) -> Option<Children> {
        let mut entries: IndexMap<String, Node> = IndexMap::new();
        loop {
            let (event, span) = match self.next()? {
                (Event::MappingEnd, span) => {
                    *end = self.location(&span.end);
                    return Some(Children::Map(entries));
                }
                key => key,
            };
            let (key, key_node) = self.node(event, span, None, depth + 1)?;
            let (event, span) = self.next()?;
            let (_, value) = self.node(event, span, Some(key_node.place), depth + 1)?;
            match entries.entry(key) {
                Entry::Vacant(entry) => drop(entry.insert(value)),
                Entry::Occupied(entry) if entry.key() == "<<" => {}
                Entry::Occupied(entry) => {
                    let (key, first) = (entry.key(), entry.get().key_place.line);
                    self.faults.at(
                        key_node.place,
                        format!(
                            "\"{key}\" is here twice; the first is on line {first}: remove one"
                        ),
                    );
                }
            }
        }
    }
}
