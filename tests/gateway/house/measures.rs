//! Functions with their sizes, and types with their names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use quote::ToTokens;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::tree::{SourceFile, is_for_tests, tokens, without_attributes};

/// A function of production code.
pub struct Function {
    place: String,
    name: String,
    /// From its signature to its end.
    pub lines: usize,
    pub tokens: usize,
    /// A tuple that hides how many parameters there are.
    pub takes_a_tuple: bool,
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}: {} lines, {} tokens",
            self.place, self.name, self.lines, self.tokens
        )
    }
}

/// All functions, the largest first.
pub fn functions(files: &[SourceFile]) -> Vec<Function> {
    let mut found: Vec<Function> = files
        .iter()
        .flat_map(|file| collect(file).functions)
        .collect();
    found.sort_by_key(|function| std::cmp::Reverse(function.tokens));
    found
}

/// Names that more than one type has where both can be meant: a name is unique in the crate if it
/// can be used everywhere in it, and else in its top-level module.
pub fn type_names(files: &[SourceFile]) -> Vec<String> {
    let mut types: BTreeMap<String, Vec<TypeName>> = BTreeMap::new();
    for name in files.iter().flat_map(|file| collect(file).types) {
        types.entry(name.name.clone()).or_default().push(name);
    }
    types
        .into_iter()
        .filter(|(_, same)| is_shared(same))
        .map(|(name, same)| {
            let places: Vec<String> = same.iter().map(|one| one.place.clone()).collect();
            format!("{name}: {}", places.join(", "))
        })
        .collect()
}

struct TypeName {
    name: String,
    place: String,
    room: String,
    is_public: bool,
}

fn is_shared(same: &[TypeName]) -> bool {
    let rooms: BTreeSet<&str> = same.iter().map(|one| one.room.as_str()).collect();
    let is_anywhere = same.iter().any(|one| one.is_public);
    rooms.len() < same.len() || (is_anywhere && same.len() > 1)
}

fn collect(file: &SourceFile) -> Collected {
    let mut collected = Collected {
        file: file.name.clone(),
        ..Collected::default()
    };
    file.items
        .iter()
        .for_each(|item| collected.visit_item(item));
    collected
}

#[derive(Default)]
struct Collected {
    file: String,
    functions: Vec<Function>,
    types: Vec<TypeName>,
}

impl Collected {
    fn function(
        &mut self,
        signature: &syn::Signature,
        whole: &dyn ToTokens,
        end: proc_macro2::Span,
    ) {
        let start = signature.span().start().line;
        let takes_a_tuple = signature.inputs.iter().any(|input| match input {
            syn::FnArg::Typed(typed) => is_tuple(&typed.ty),
            syn::FnArg::Receiver(_) => false,
        });
        self.functions.push(Function {
            place: format!("src/{}:{start}", self.file),
            name: signature.ident.to_string(),
            lines: end.end().line + 1 - start,
            tokens: tokens(without_attributes(whole.to_token_stream())),
            takes_a_tuple,
        });
    }

    fn named(&mut self, name: &syn::Ident, visibility: &syn::Visibility) {
        let is_public = match visibility {
            syn::Visibility::Public(_) => true,
            syn::Visibility::Restricted(to) => to.path.is_ident("crate"),
            syn::Visibility::Inherited => false,
        };
        let room = self.file.split(['/', '.']).next().unwrap().to_owned();
        let place = format!("src/{}:{}", self.file, name.span().start().line);
        self.types.push(TypeName {
            name: name.to_string(),
            place,
            room,
            is_public,
        });
    }
}

/// `(A, B)`, also behind a reference.
fn is_tuple(kind: &syn::Type) -> bool {
    match kind {
        syn::Type::Tuple(tuple) => !tuple.elems.is_empty(),
        syn::Type::Reference(reference) => is_tuple(&reference.elem),
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Collected {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_for_tests(&item.attrs) {
            self.function(&item.sig, item, item.block.span());
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            self.function(&item.sig, item, item.block.span());
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, item, block.span());
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.named(&item.ident, &item.vis);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.named(&item.ident, &item.vis);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.named(&item.ident, &item.vis);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.named(&item.ident, &item.vis);
    }
}
