//! State that most sessions and connections never need: until something is put into it, it takes a
//! pointer and no memory of its own.

use std::ops::{Deref, DerefMut};

/// State that is as at first, or has been changed. To change it makes it, whatever comes of that:
/// where it may well be as at first, change it through [`Rare::known`].
#[derive(Debug)]
pub(super) struct Rare<T>(Option<Box<T>>);

/// State of which everybody who has none shares one.
pub(super) trait Shareable: Default + 'static {
    /// As at first.
    fn none() -> &'static Self;
}

impl<T> Default for Rare<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Rare<T> {
    /// The state, if it was ever changed.
    pub(super) fn known(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }
}

impl<T: Shareable> Deref for Rare<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or_else(|| T::none())
    }
}

impl<T: Shareable> DerefMut for Rare<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}
